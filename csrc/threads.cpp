// Runners: threads for callers without any, and the threads of other libraries.
#include <thread>
#include <vector>

#include "include/personalizer_kernels.h"

namespace {

void run_on_threads(void *context, int64_t count, pk_task task, void *argument) {
  const int64_t wanted = static_cast<int64_t>(reinterpret_cast<intptr_t>(context));
  const int64_t parts = wanted < count ? wanted : count;
  if (parts <= 1) {
    task(argument, 0, count);
    return;
  }
  std::vector<std::thread> helpers;
  helpers.reserve(static_cast<size_t>(parts - 1));
  for (int64_t part = 1; part < parts; ++part)
    helpers.emplace_back(task, argument, part * count / parts, (part + 1) * count / parts);
  task(argument, 0, count / parts);
  for (std::thread &helper : helpers) helper.join();
}

// A task in the order of arguments that loops want.
struct Turned {
  pk_task task;
  void *argument;
};

void run_turned(int64_t first, int64_t last, void *argument) {
  const Turned &turned = *static_cast<const Turned *>(argument);
  turned.task(turned.argument, first, last);
}

void run_in_loop(void *context, int64_t count, pk_task task, void *argument) {
  Turned turned = {task, argument};
  const pk_loop loop = reinterpret_cast<pk_loop>(context);
  if (loop(0, count, 1, run_turned, &turned) != 0) task(argument, 0, count);
}

}  // namespace

extern "C" pk_runner pk_threads(int count) {
  return {run_on_threads, reinterpret_cast<void *>(static_cast<intptr_t>(count))};
}

extern "C" pk_runner pk_threads_of(pk_loop loop) { return {run_in_loop, reinterpret_cast<void *>(loop)}; }
