// What this processor can do.
#include "kernels.hpp"

#if defined(PK_X86)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace pk {
namespace {

#if defined(PK_X86)

// Linux hands out tile registers on request only.
bool may_use_tiles() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr int request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

bool has_amx_bf16() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  const bool bf16 = (edx >> 22) & 1, tile = (edx >> 24) & 1;
  return bf16 && tile && may_use_tiles();
}

bool has_avx512_bf16() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && ((eax >> 5) & 1);
}

#endif

struct Found {
  const Kernels *list[6];
  int count = 0;
  void add(const Kernels &one) { list[count++] = &one; }
  Found() {
#if defined(PK_X86)
    __builtin_cpu_init();
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    const bool pairs = avx512 && has_avx512_bf16();
    if (pairs && has_amx_bf16()) add(amx_kernels);
    if (pairs) add(avx512_bf16_kernels);
    if (avx512) add(avx512_kernels);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) add(avx2_kernels);
#endif
    add(portable_kernels);
    add(tiles_kernels);
  }
};

}  // namespace

const Kernels *const *usable_kernels(int *count) {
  static const Found found;
  *count = found.count;
  return found.list;
}

}  // namespace pk
