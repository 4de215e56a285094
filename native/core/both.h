// DUET_BOTH: a function for the host and, when a CUDA compiler reads it, for the device too.
#pragma once

#if defined(__CUDACC__)
#define DUET_BOTH __host__ __device__
#else
#define DUET_BOTH
#endif
