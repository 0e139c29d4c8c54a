"""Fast versions of the ops' meanings, one package a device: NumPy (or CuPy) arrays in, arrays out."""
