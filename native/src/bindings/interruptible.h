// Long C work that Ctrl-C ends.
#ifndef EK_INTERRUPTIBLE_H
#define EK_INTERRUPTIBLE_H

#include "status.h"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

// Runs work() in a thread of its own while this one, without the GIL between, lets Python handle its signals. What a
// handler raises (KeyboardInterrupt) cancels the work and is raised here once it has ended.
template <class Work> void run_interruptible(ek_context *context, const Work &work) {
  std::mutex mutex;
  std::condition_variable ended;
  bool done = false;
  ek_status status = EK_OK;
  std::string sentence; // ek_last_error is the other thread's
  sentence.reserve(1024);
  std::optional<nb::python_error> raised;
  std::thread worker([&] {
    const ek_status result = work();
    std::lock_guard<std::mutex> lock(mutex);
    status = result;
    if (result != EK_OK) sentence = ek_last_error();
    done = true;
    ended.notify_one();
  });
  for (bool finished = false; !finished;) {
    {
      nb::gil_scoped_release released;
      std::unique_lock<std::mutex> lock(mutex);
      finished = ended.wait_for(lock, std::chrono::milliseconds(20), [&] { return done; });
    }
    if (!raised && PyErr_CheckSignals() != 0) raised.emplace();
    // Again each time: a call that comes before the work has begun has no effect.
    if (raised && !finished) ek_cancel(context);
  }
  worker.join();
  if (raised) throw nb::python_error(*raised);
  raise_for(status, sentence.c_str());
}

#endif
