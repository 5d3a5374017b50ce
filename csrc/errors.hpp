// What the engine throws; bindings.cpp turns each into the exception of tconv.errors named here.
#pragma once

#include <stdexcept>
#include <string>

namespace tconv {

struct ShapeError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

struct ParameterError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

struct OutOfMemoryError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The caller asked to stop, and the reason is already set on the Python thread.
struct Interrupted {};

}  // namespace tconv
