// The stream and the memory of the emulated device. Work is done when the host waits for it and not before,
// so what must stay as it is until then, and does not, is seen. The memory lies in one run of addresses that
// nobody may touch but the work of the stream:
//
// - the host's code ends there with a line that says so (SIGSEGV)
// - memory begins as NaN, and is NaN again when it has been given back
// - behind every block lies a zone that kernels must leave as it is, which is looked at after each of them
#pragma once

#include <functional>

#include "core/memory.h"

namespace duet::gpu::emulation {

/// To be done after everything asked for before.
void enqueue(std::function<void()> work);
/// Does what was asked for. Throws the first problem; what followed it is left out.
void synchronize();

/// Takes DUET_EMULATED_BYTES of the environment for what there is (default: as much as the host has).
Memory memory();

}  // namespace duet::gpu::emulation
