"""Machine code: CPU kernels through Numba, CUDA sources for CuPy. Imported only when used."""
