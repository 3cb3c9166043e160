// An epoll(7) loop: what every thread of the VMM but the vCPUs runs.
#ifndef CLEARVM_BASE_EVENT_LOOP_H_
#define CLEARVM_BASE_EVENT_LOOP_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "native/base/fd.h"
#include "native/base/result.h"

namespace clearvm {

// Level-triggered. Add, Modify and Remove may be called before Run by any thread, and after it only
// on the loop's own thread; Post and Stop by any thread at any time.
class EventLoop {
 public:
  using Handler = std::function<void(uint32_t epoll_events)>;

  static Result<std::unique_ptr<EventLoop>> Create();

  // Calls `handler` on the loop's thread whenever one of `events` (EPOLLIN, ...; 0: only errors and
  // hang-up) holds for `fd`. The fd stays the caller's, who removes it before closing it. A handler
  // may remove any fd, itself included. Errors: epoll_ctl(2)'s, e.g. EPERM for a regular file.
  Result<void> Add(int fd, uint32_t events, Handler handler);
  Result<void> Modify(int fd, uint32_t events);
  void Remove(int fd);

  // Runs `task` on the loop's thread, soon; tasks posted before Run run first in it.
  void Post(std::function<void()> task);

  // Runs `task` on the loop's thread, and returns when it is done. Any other thread, while the loop
  // runs.
  void Call(const std::function<void()>& task);

  // Dispatches until Stop. Errors: epoll_wait(2)'s.
  Result<void> Run();
  void Stop();

 private:
  EventLoop() = default;
  void RunTasks();

  UniqueFd epoll_;
  UniqueFd wake_;
  std::atomic<bool> stop_{false};
  struct Watch {
    int fd;
    Handler handler;
    bool removed = false;
  };
  std::unordered_map<int, std::unique_ptr<Watch>> watches_;
  std::vector<std::unique_ptr<Watch>> graveyard_;  // removed while events were being dispatched
  std::mutex tasks_mutex_;
  std::vector<std::function<void()>> tasks_;
};

}  // namespace clearvm

#endif  // CLEARVM_BASE_EVENT_LOOP_H_
