// Runners: threads for callers without any, and the threads of other libraries.
#include <exception>
#include <thread>

#include "include/personalizer_kernels.h"

namespace {

constexpr int64_t MOST_THREADS = 256;

void run_on_threads(void *context, int64_t count, pk_task task, void *argument) {
  const int64_t wanted = static_cast<int64_t>(reinterpret_cast<intptr_t>(context));
  const int64_t allowed = wanted < MOST_THREADS ? wanted : MOST_THREADS, parts = allowed < count ? allowed : count;
  if (parts <= 1) {
    task(argument, 0, count);
    return;
  }
  const auto start_of = [&](int64_t part) { return part * (count / parts) + part * (count % parts) / parts; };
  std::thread helpers[MOST_THREADS];
  int64_t started = 0;
  try {
    for (; started < parts - 1; ++started)
      helpers[started] = std::thread(task, argument, start_of(started), start_of(started + 1));
  } catch (const std::exception &) {
    // The system gives no more threads or no memory for them: this one does what is left.
  }
  task(argument, start_of(started), count);
  for (int64_t i = 0; i < started; ++i) helpers[i].join();
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

extern "C" pk_runner pk_threads_of(pk_loop loop) {
  return {loop == nullptr ? nullptr : run_in_loop, reinterpret_cast<void *>(loop)};
}
