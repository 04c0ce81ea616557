"""tanh, sigmoid and exp that LLVM turns into vector instructions, for float32 and float64.

Calls of the C library's functions keep a loop scalar. These are polynomials, a division and
selects. Inputs are never clipped in a way that hides a NaN: each
comparison is written so that a NaN passes through.

Numba resolves `tanh`, `sigmoid` and `exp` by the argument's type; in Python they are not callable.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, types
from numba.extending import overload

from .compiling import FLAGS

F32, F64 = np.float32, np.float64


def tanh(x):
    raise RuntimeError("for use in Numba functions only")


def sigmoid(x):
    raise RuntimeError("for use in Numba functions only")


def exp(x):
    raise RuntimeError("for use in Numba functions only")


# exp(x) = 2^k exp(r), |r| <= ln(2) / 2, the second factor by its Taylor series. Adding 1.5 * 2^m
# (m the mantissa's bits) rounds x / ln(2) to the integer k and leaves k in the low bits.
LOG2_E = 1 / math.log(2)
MAGIC32, MAGIC64 = F32(1.5 * 2**23), F64(1.5 * 2**52)
LN2_HIGH, LN2_LOW = 6.93145751953125e-1, 1.42860682030941723212e-6  # Cody & Waite 1980
TAYLOR32 = tuple(F32(1 / math.factorial(n)) for n in range(7, -1, -1))
TAYLOR64 = tuple(F64(1 / math.factorial(n)) for n in range(13, -1, -1))
LOWEST32, LOWEST64 = F32(-87.0), F64(-708.0)  # below these exp(x) is returned as exp of these
HIGHEST32, HIGHEST64 = F32(88.0), F64(709.0)


@njit(fastmath=FLAGS)
def _exp32(x):
    x = LOWEST32 if x < LOWEST32 else x
    x = HIGHEST32 if x > HIGHEST32 else x
    shifted = x * F32(LOG2_E) + MAGIC32
    k = shifted - MAGIC32
    r = x - k * F32(LN2_HIGH)
    r = r - k * F32(LN2_LOW)
    p = TAYLOR32[0]
    for n in range(1, 8):
        p = p * r + TAYLOR32[n]
    power = (F32(shifted).view(np.int32) + np.int32(127)) << np.int32(23)
    return p * np.int32(power).view(np.float32)


@njit(fastmath=FLAGS)
def _exp64(x):
    x = LOWEST64 if x < LOWEST64 else x
    x = HIGHEST64 if x > HIGHEST64 else x
    shifted = x * LOG2_E + MAGIC64
    k = shifted - MAGIC64
    r = x - k * LN2_HIGH
    r = r - k * LN2_LOW
    p = TAYLOR64[0]
    for n in range(1, 14):
        p = p * r + TAYLOR64[n]
    power = (F64(shifted).view(np.int64) + np.int64(1023)) << np.int64(52)
    return p * np.int64(power).view(np.float64)


# float32: the rational approximation x P(x^2) / Q(x^2) of degree 13 over 6 with the coefficients
# of Eigen's ptanh (MPL 2.0 library, generic_fast_tanh_float); largest absolute error 3.1e-7.
P32 = tuple(
    F32(p)
    for p in (
        -2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08,
        1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03,
    )
)  # fmt: skip
Q32 = tuple(
    F32(q) for q in (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
)


@njit(fastmath=FLAGS)
def _tanh32(x):
    x = F32(9) if x > F32(9) else x
    x = F32(-9) if x < F32(-9) else x
    z = x * x
    p = P32[0]
    for n in range(1, 7):
        p = p * z + P32[n]
    q = Q32[0]
    for n in range(1, 4):
        q = q * z + Q32[n]
    return x * p / q


# float64: the rational approximation of Cephes' tanh (Moshier 1989) near zero, else through exp.
P64 = (-9.64399179425052238628e-1, -9.92877231001918586564e1, -1.61468768441708447952e3)
Q64 = (1.0, 1.12811678491632931402e2, 2.23548839060100448583e3, 4.84406305325125486048e3)


@njit(fastmath=FLAGS)
def _tanh64(x):
    z = x * x
    p = (P64[0] * z + P64[1]) * z + P64[2]
    q = ((z + Q64[1]) * z + Q64[2]) * z + Q64[3]
    near = x + x * z * (p / q)
    size = abs(x)
    far = 1.0 - 2.0 / (_exp64(2.0 * size) + 1.0)
    far = -far if x < 0.0 else far
    return near if size < 0.625 else far


@njit(fastmath=FLAGS)
def _sigmoid32(x):
    return F32(0.5) * _tanh32(F32(0.5) * x) + F32(0.5)


@njit(fastmath=FLAGS)
def _sigmoid64(x):
    return 0.5 * _tanh64(0.5 * x) + 0.5


def _by_type(function, for_float32, for_float64):
    @overload(function, jit_options={"fastmath": FLAGS})
    def choose(x):
        if x == types.float32:
            return lambda x: for_float32(x)
        if x == types.float64:
            return lambda x: for_float64(x)
        return None


_by_type(exp, _exp32, _exp64)
_by_type(tanh, _tanh32, _tanh64)
_by_type(sigmoid, _sigmoid32, _sigmoid64)
