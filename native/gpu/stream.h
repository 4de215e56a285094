// What the real device and the emulated one have under the same names: a stream of work, in order, that the
// host does not wait for. native.h and emulation.h bring `launch`.
#pragma once

#include <cstddef>

namespace duet::gpu {

/// Memory of the device that belongs to the work asked for from now on, and to what is asked for before
/// giveScratch. It holds anything.
void* takeScratch(size_t bytes);
void giveScratch(void* block) noexcept;

/// Memory of the host that copies are asynchronous from. It is never given back.
std::byte* pinnedBytes(size_t bytes);
/// `from` is pinned and stays as it is until the copy is done.
void copyInLater(void* to, const void* from, size_t bytes);
/// Everything asked for before is done when this returns.
void copyOutNow(void* to, const void* from, size_t bytes);

/// Points in the stream of the device in use.
using Event = void*;
Event makeEvent();
void recordEvent(Event event);
void waitForEvent(Event event);

/// From anywhere on the host, which may change as soon as this returns.
void stage(void* to, const void* from, size_t bytes);

/// Bytes of pinned memory that are filled at one time.
size_t stagingBytes();
/// Of the device in use.
int deviceInUse();
int multiprocessors();

}  // namespace duet::gpu
