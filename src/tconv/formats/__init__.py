"""MXNet's files as plain data: NumPy arrays (`params_file`) and node records (`symbol_json`)."""
