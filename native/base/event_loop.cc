#include "native/base/event_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <array>
#include <future>

namespace clearvm {

Result<std::unique_ptr<EventLoop>> EventLoop::Create() {
  std::unique_ptr<EventLoop> loop(new EventLoop());
  loop->epoll_ = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  if (!loop->epoll_.valid()) {
    return SystemError("ERR_EVENT_LOOP", "epoll_create1", "cannot create an event loop");
  }
  loop->wake_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!loop->wake_.valid()) {
    return SystemError("ERR_EVENT_LOOP", "eventfd", "cannot create an event loop");
  }
  EventLoop* self = loop.get();
  CLEARVM_RETURN_IF_ERROR(loop->Add(loop->wake_.get(), EPOLLIN, [self](uint32_t) {
    uint64_t count;
    // EAGAIN is the only failure, and harmless: another wake-up has taken the count.
    [[maybe_unused]] ssize_t got = ::read(self->wake_.get(), &count, sizeof count);
    self->RunTasks();
  }));
  return loop;
}

Result<void> EventLoop::Add(int fd, uint32_t events, Handler handler) {
  auto watch = std::make_unique<Watch>(Watch{fd, std::move(handler)});
  epoll_event event{};
  event.events = events;
  event.data.ptr = watch.get();
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    return SystemError("ERR_EVENT_LOOP", "epoll_ctl(EPOLL_CTL_ADD)",
                       "cannot watch file descriptor " + std::to_string(fd));
  }
  watches_[fd] = std::move(watch);
  return {};
}

Result<void> EventLoop::Modify(int fd, uint32_t events) {
  auto found = watches_.find(fd);
  epoll_event event{};
  event.events = events;
  event.data.ptr = found == watches_.end() ? nullptr : found->second.get();
  if (event.data.ptr == nullptr || ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) != 0) {
    return SystemError("ERR_EVENT_LOOP", "epoll_ctl(EPOLL_CTL_MOD)",
                       "cannot watch file descriptor " + std::to_string(fd));
  }
  return {};
}

void EventLoop::Remove(int fd) {
  auto found = watches_.find(fd);
  if (found == watches_.end()) return;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  found->second->removed = true;
  // An event for it may already have been fetched, and its handler may be the one that is running.
  graveyard_.push_back(std::move(found->second));
  watches_.erase(found);
}

void EventLoop::Post(std::function<void()> task) {
  {
    std::lock_guard lock(tasks_mutex_);
    tasks_.push_back(std::move(task));
  }
  const uint64_t one = 1;
  // EAGAIN means that the counter is full, so a wake-up is pending anyway.
  [[maybe_unused]] ssize_t wrote = ::write(wake_.get(), &one, sizeof one);
}

void EventLoop::Call(const std::function<void()>& task) {
  std::promise<void> done;
  Post([&] {
    task();
    done.set_value();
  });
  done.get_future().wait();
}

void EventLoop::RunTasks() {
  std::vector<std::function<void()>> tasks;
  {
    std::lock_guard lock(tasks_mutex_);
    tasks.swap(tasks_);
  }
  for (auto& task : tasks) task();
}

Result<void> EventLoop::Run() {
  std::array<epoll_event, 32> events;
  while (!stop_.load(std::memory_order_acquire)) {
    const int count = ::epoll_wait(epoll_.get(), events.data(), events.size(), -1);
    if (count < 0) {
      if (errno == EINTR) continue;
      return SystemError("ERR_EVENT_LOOP", "epoll_wait", "the event loop broke");
    }
    for (int i = 0; i < count; i++) {
      auto* watch = static_cast<Watch*>(events[i].data.ptr);
      if (!watch->removed) watch->handler(events[i].events);
    }
    graveyard_.clear();
  }
  return {};
}

void EventLoop::Stop() {
  stop_.store(true, std::memory_order_release);
  Post([] {});
}

}  // namespace clearvm
