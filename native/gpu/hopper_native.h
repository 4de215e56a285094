// The PTX behind hopper.h.
#pragma once

namespace duet::gpu {

/// Whether its results are to be seen before they are trusted.
constexpr bool kOnTrial = true;

struct Barrier {
  uint64_t state;
};

DUET_DEVICE uint32_t sharedAddress(const void* place) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(place));
}

DUET_DEVICE void barrierInit(Barrier& barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(sharedAddress(&barrier)), "r"(count)
               : "memory");
}

/// After barriers were made, before others (copies, too) use them behind a __syncthreads.
DUET_DEVICE void barrierFence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

DUET_DEVICE void barrierExpect(Barrier& barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(sharedAddress(&barrier)),
               "r"(bytes)
               : "memory");
}

DUET_DEVICE void barrierArrive(Barrier& barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(sharedAddress(&barrier)) : "memory");
}

DUET_DEVICE void barrierWait(Barrier& barrier, unsigned parity) {
  uint32_t ended;
  do {
    asm volatile(
        "{\n.reg .pred ended;\nmbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2;\n"
        "selp.u32 %0, 1, 0, ended;\n}"
        : "=r"(ended)
        : "r"(sharedAddress(&barrier)), "r"(parity)
        : "memory");
  } while (!ended);
}

DUET_DEVICE void copyTile(void* to, const TensorMap& map, int x, int y, Barrier& barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
      "[%4];" ::"r"(sharedAddress(to)),
      "l"(&map), "r"(x), "r"(y), "r"(sharedAddress(&barrier))
      : "memory");
}

/// Registers of a thread from here on, all warps of the warpgroup together: fewer or more than before.
template <int Count>
DUET_DEVICE void fewerRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
}
template <int Count>
DUET_DEVICE void moreRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
}

#define DUET_SUMS_8(s, i)                                                                     \
  "+f"(s[i]), "+f"(s[i + 1]), "+f"(s[i + 2]), "+f"(s[i + 3]), "+f"(s[i + 4]), "+f"(s[i + 5]), \
      "+f"(s[i + 6]), "+f"(s[i + 7])
#define DUET_SUMS_32(s, i) \
  DUET_SUMS_8(s, i), DUET_SUMS_8(s, i + 8), DUET_SUMS_8(s, i + 16), DUET_SUMS_8(s, i + 24)
#define DUET_PLACES_0                                      \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15," \
  "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define DUET_PLACES_1                                                \
  "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
  "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define DUET_PLACES_2                                                \
  "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79," \
  "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define DUET_PLACES_3                                                            \
  "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111," \
  "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define DUET_WGMMA(shape, places, a, b, add, aAcross, bAcross)                            \
  "{\n.reg .pred add;\nsetp.ne.b32 add, " add ", 0;\nwgmma.mma_async.sync.aligned." shape \
  ".f32.bf16.bf16 {" places "}, " a ", " b ", add, 1, 1, " aAcross ", " bAcross ";\n}"

template <int N, bool AAcross, bool BAcross>
DUET_DEVICE void wgmma(float (&s)[N / 2], uint64_t a, uint64_t b, bool add) {
  static_assert(N == 128 || N == 192 || N == 256);
  const int adds = add;
  if constexpr (N == 128)
    asm volatile(DUET_WGMMA("m64n128k16", DUET_PLACES_0 "," DUET_PLACES_1, "%64", "%65", "%66", "%67", "%68")
                 : DUET_SUMS_32(s, 0), DUET_SUMS_32(s, 32)
                 : "l"(a), "l"(b), "r"(adds), "n"(AAcross ? 1 : 0), "n"(BAcross ? 1 : 0));
  else if constexpr (N == 192)
    asm volatile(DUET_WGMMA("m64n192k16", DUET_PLACES_0 "," DUET_PLACES_1 "," DUET_PLACES_2, "%96", "%97",
                            "%98", "%99", "%100")
                 : DUET_SUMS_32(s, 0), DUET_SUMS_32(s, 32), DUET_SUMS_32(s, 64)
                 : "l"(a), "l"(b), "r"(adds), "n"(AAcross ? 1 : 0), "n"(BAcross ? 1 : 0));
  else
    asm volatile(DUET_WGMMA("m64n256k16", DUET_PLACES_0 "," DUET_PLACES_1 "," DUET_PLACES_2 "," DUET_PLACES_3,
                            "%128", "%129", "%130", "%131", "%132")
                 : DUET_SUMS_32(s, 0), DUET_SUMS_32(s, 32), DUET_SUMS_32(s, 64), DUET_SUMS_32(s, 96)
                 : "l"(a), "l"(b), "r"(adds), "n"(AAcross ? 1 : 0), "n"(BAcross ? 1 : 0));
}

#undef DUET_SUMS_8
#undef DUET_SUMS_32
#undef DUET_PLACES_0
#undef DUET_PLACES_1
#undef DUET_PLACES_2
#undef DUET_PLACES_3
#undef DUET_WGMMA

DUET_DEVICE void wgmmaFence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DUET_DEVICE void wgmmaCommit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

/// The sums are named so that nothing that reads them moves ahead of the wait.
template <int Pending, int Count>
DUET_DEVICE void wgmmaWait(float (&sums)[Count]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
  if constexpr (Pending == 0) {
#pragma unroll
    for (float& sum : sums) asm volatile("" : "+f"(sum)::"memory");
  }
}

}  // namespace duet::gpu
