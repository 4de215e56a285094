#include <cuda.h>
#include <cuda_runtime.h>

#include <map>
#include <mutex>
#include <vector>

#include "core/error.h"
#include "gpu/device_memory.h"
#include "gpu/native.h"

namespace duet::gpu {

const char* const kKind = "cuda";

void check(cudaError_t answer, const char* what) {
  if (answer == cudaSuccess) return;
  const bool memory = answer == cudaErrorMemoryAllocation;
  fail(memory ? Code::OutOfMemory : Code::Internal,
       memory ? "Out of GPU memory: could not " : "The GPU could not ", what, " (",
       cudaGetErrorString(answer), memory ? "); use a smaller batch or bf16" : ")");
}

namespace {

/// Where this thread's kernels run.
struct Current {
  int device = -1;
  cudaStream_t stream = nullptr;
  int multiprocessors = 0;
};
thread_local Current current;

cudaStream_t streamOf(int device) {
  static std::mutex mutex;
  static std::map<int, cudaStream_t> streams;
  const std::lock_guard lock(mutex);
  cudaStream_t& stream = streams[device];
  if (!stream) check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "make a stream");
  return stream;
}

/// Functions of the driver, asked for at run time, so that the plugin needs no library of it to load.
template <typename Function>
Function driver(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  check(cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found),
        "find the driver's functions");
  if (found != cudaDriverEntryPointSuccess)
    fail(Code::Unsupported, "The NVIDIA driver has no ", name, "; install a newer one");
  return reinterpret_cast<Function>(function);
}

void checkDriver(CUresult answer, const char* what) {
  if (answer == CUDA_SUCCESS) return;
  if (answer == CUDA_ERROR_OUT_OF_MEMORY)
    fail(Code::OutOfMemory, "Out of GPU memory: could not ", what, "; use a smaller batch or bf16");
  fail(Code::Internal, "The GPU could not ", what, " (error ", static_cast<int>(answer), ")");
}

CUmemAllocationProp placement() {
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, current.device};
  return prop;
}

size_t granularity() {
  static const auto ask = driver<decltype(&cuMemGetAllocationGranularity)>("cuMemGetAllocationGranularity");
  const CUmemAllocationProp prop = placement();
  size_t unit = 0;
  checkDriver(ask(&unit, &prop, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED), "tell how it hands out memory");
  return unit;
}

size_t roundUp(size_t size, size_t unit) { return (size + unit - 1) / unit * unit; }

/// What lies behind the reserved runs, to be given back with them.
struct Run {
  size_t bytes = 0, backed = 0;
  std::vector<std::pair<size_t, CUmemGenericAllocationHandle>> parts;  // size
};
std::mutex runsMutex;
std::map<std::byte*, Run> runs;

/// Address space is plenty, but not what a step could never fill.
std::byte* reserve(size_t bytes) {
  static const auto ask = driver<decltype(&cuMemAddressReserve)>("cuMemAddressReserve");
  CUdeviceptr run = 0;
  const size_t size = roundUp(bytes, granularity());
  if (ask(&run, size, 0, 0, 0) != CUDA_SUCCESS) return nullptr;
  const std::lock_guard lock(runsMutex);
  runs[reinterpret_cast<std::byte*>(run)].bytes = size;
  return reinterpret_cast<std::byte*>(run);
}

/// In steps of at least 32 MiB, because each costs a call of the driver.
void back(std::byte* base, size_t, size_t to) {
  static const auto create = driver<decltype(&cuMemCreate)>("cuMemCreate");
  static const auto map = driver<decltype(&cuMemMap)>("cuMemMap");
  static const auto allow = driver<decltype(&cuMemSetAccess)>("cuMemSetAccess");
  const std::lock_guard lock(runsMutex);
  Run& run = runs.at(base);
  if (to <= run.backed) return;
  const size_t unit = granularity();
  const size_t size =
      std::min(roundUp(std::max(to - run.backed, size_t{32} << 20), unit), run.bytes - run.backed);
  const CUmemAllocationProp prop = placement();
  CUmemGenericAllocationHandle handle;
  checkDriver(create(&handle, size, &prop, 0), "allocate memory of a step");
  const CUdeviceptr address = reinterpret_cast<CUdeviceptr>(base) + run.backed;
  checkDriver(map(address, size, 0, handle, 0), "map memory of a step");
  const CUmemAccessDesc access{prop.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  checkDriver(allow(address, size, &access, 1), "use memory of a step");
  run.parts.emplace_back(size, handle);
  run.backed += size;
}

void forsake(std::byte* base, size_t) {
  static const auto unmap = driver<decltype(&cuMemUnmap)>("cuMemUnmap");
  static const auto release = driver<decltype(&cuMemRelease)>("cuMemRelease");
  static const auto free = driver<decltype(&cuMemAddressFree)>("cuMemAddressFree");
  cudaDeviceSynchronize();
  const std::lock_guard lock(runsMutex);
  const auto found = runs.find(base);
  if (found == runs.end()) return;
  auto address = reinterpret_cast<CUdeviceptr>(base);
  for (const auto& [size, handle] : found->second.parts) {
    unmap(address, size);
    release(handle);
    address += size;
  }
  free(reinterpret_cast<CUdeviceptr>(base), found->second.bytes);
  runs.erase(found);
}

}  // namespace

cudaStream_t stream() { return current.stream; }

int multiprocessors() { return current.multiprocessors; }
int deviceInUse() { return current.device; }
size_t stagingBytes() { return size_t{8} << 20; }

void* takeScratch(size_t bytes) {
  void* block = nullptr;
  check(cudaMallocAsync(&block, bytes, stream()), "allocate scratch memory");
  return block;
}
void giveScratch(void* block) noexcept { cudaFreeAsync(block, stream()); }

std::byte* pinnedBytes(size_t bytes) {
  void* block = nullptr;
  check(cudaHostAlloc(&block, bytes, cudaHostAllocDefault), "allocate pinned memory of the host");
  return static_cast<std::byte*>(block);
}

void copyInLater(void* to, const void* from, size_t bytes) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream()), "copy to the device");
}

void copyOutNow(void* to, const void* from, size_t bytes) {
  if (bytes > 0)
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream()), "copy to the host");
  check(cudaStreamSynchronize(stream()), "wait for the device");
}

Event makeEvent() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "make an event");
  return event;
}
void recordEvent(Event event) {
  check(cudaEventRecord(static_cast<cudaEvent_t>(event), stream()), "record an event");
}
void waitForEvent(Event event) {
  check(cudaEventSynchronize(static_cast<cudaEvent_t>(event)), "wait for a copy");
}

int deviceCount() {
  int version = 0, count = 0;
  check(cudaDriverGetVersion(&version), "tell the version of its driver");
  if (version == 0) fail(Code::Unsupported, "Device 'cuda' cannot be used: there is no NVIDIA driver");
  int needed = 0;
  check(cudaRuntimeGetVersion(&needed), "tell the version of CUDA");
  if (version / 1000 < needed / 1000)
    fail(Code::Unsupported, "Device 'cuda' cannot be used: the NVIDIA driver is for CUDA ", version / 1000,
         ".", version % 1000 / 10, ", this package needs one for CUDA ", needed / 1000,
         "; install a newer driver");
  const cudaError_t answer = cudaGetDeviceCount(&count);
  if (answer != cudaSuccess || count == 0)
    fail(Code::Unsupported, "Device 'cuda' cannot be used: ",
         answer == cudaSuccess ? "there is no GPU" : cudaGetErrorString(answer));
  return count;
}

DeviceInfo describeDevice(int index) {
  cudaDeviceProp prop{};
  check(cudaGetDeviceProperties(&prop, index), "describe itself");
  int driverVersion = 0, runtimeVersion = 0;
  cudaDriverGetVersion(&driverVersion);
  cudaRuntimeGetVersion(&runtimeVersion);
  const auto text = [](int version) { return str(version / 1000, ".", version % 1000 / 10); };
  DeviceInfo info{prop.name,           str("sm_", prop.major, prop.minor),
                  prop.totalGlobalMem, 0,
                  text(driverVersion), text(runtimeVersion)};
  int before = 0;
  cudaGetDevice(&before);
  size_t total = 0;
  if (cudaSetDevice(index) == cudaSuccess) cudaMemGetInfo(&info.freeBytes, &total);
  cudaSetDevice(before);
  return info;
}

void useDevice(int index) {
  if (current.device == index) return;
  check(cudaSetDevice(index), "be chosen");
  int multiprocessors = 0;
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, index), "describe itself");
  current = {index, streamOf(index), multiprocessors};
}

Memory deviceMemory() {
  Memory m{};  // not on the host
  m.allocate = [](size_t bytes) {
    void* block = nullptr;
    check(cudaMallocAsync(&block, bytes > 0 ? bytes : 1, stream()), "allocate a tensor");
    check(cudaMemsetAsync(block, 0, bytes, stream()), "clear a tensor");
    return block;
  };
  // The last tensor may go on a thread that uses no device: then everything before is waited for.
  m.release = [](void* block) { stream() ? cudaFreeAsync(block, stream()) : cudaFree(block); };
  m.reserve = reserve;
  m.back = back;
  m.forsake = forsake;
  m.copyIn = stage;
  m.copyOut = copyOutNow;
  m.copy = [](void* to, const void* from, size_t bytes) {
    if (bytes > 0) check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream()), "copy memory");
  };
  m.zero = [](void* to, size_t bytes) {
    if (bytes > 0) check(cudaMemsetAsync(to, 0, bytes, stream()), "clear memory");
  };
  return m;
}

}  // namespace duet::gpu
