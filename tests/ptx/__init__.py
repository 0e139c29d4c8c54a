"""CUDA kernels run as they are compiled, without a card: a machine for PTX in NumPy.

The engine's simulators run the Python in which a kernel is written. A card runs what Numba and NVVM make of it, with
PTX written by hand in between, in numbers of 16, 32 and 64 bits. This machine runs that text:

    parsing.py      PTX as instructions, in basic blocks
    arithmetic.py   what an instruction computes, as a Python expression over arrays of one number a thread
    memory.py       global, shared and local memory: bounds, alignment, copies under way, races
    warps.py        what threads of a warp do together: shuffles, votes, tensor cores
    machine.py      blocks of threads: who runs next, and where they wait for each other
    kernels.py      the PTX of all kernels of the engine, compiled in another process
    running.py      a launch of the simulator, run by this machine instead
    card.py         a played card for the engine's own code for cards: CuPy's arrays, streams, graphs and the driver

`python -m tests.ptx` runs the tests of CUDA with it, and `--card` runs them on the played card. Reference: "Parallel
Thread Execution ISA", NVIDIA.
"""
