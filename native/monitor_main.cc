// clearvm-monitor: the process beside the VMM of a container that outlives its starter.
#include <fcntl.h>
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstring>

#include "native/monitor/monitor.h"

namespace {

using clearvm::UniqueFd;

constexpr char kUsage[] =
    "usage: clearvm-monitor --data-fd N --runtime-fd N [--report-fd N] [--client-fd N]\n"
    "Keeps one container: its log, its state, its restarts. The engine starts it.\n"
    "\n"
    "  --data-fd N      the container's directory, where log and state are kept\n"
    "  --runtime-fd N   its runtime directory, which holds the start request\n"
    "  --report-fd N    a pipe on which the outcome of the start is told\n"
    "  --client-fd N    a connected client\n";

const option kOptions[] = {
    {"data-fd", required_argument, nullptr, 'd'},
    {"runtime-fd", required_argument, nullptr, 'r'},
    {"report-fd", required_argument, nullptr, 'p'},
    {"client-fd", required_argument, nullptr, 'c'},
    {"help", no_argument, nullptr, 'h'},
    {nullptr, 0, nullptr, 0},
};

UniqueFd ParseFd(const char* text) {
  int fd = -1;
  const char* end = text + std::strlen(text);
  if (std::from_chars(text, end, fd).ptr != end || fd < 0 || ::fcntl(fd, F_GETFD) < 0) {
    return UniqueFd();
  }
  ::fcntl(fd, F_SETFD, FD_CLOEXEC);
  return UniqueFd(fd);
}

}  // namespace

int main(int argc, char** argv) {
  ::mallopt(M_ARENA_MAX, 1);
  clearvm::monitor::Places places;
  for (int which; (which = ::getopt_long(argc, argv, "", kOptions, nullptr)) != -1;) {
    if (which == 'd') places.data = ParseFd(optarg);
    if (which == 'r') places.runtime = ParseFd(optarg);
    if (which == 'p') places.report = ParseFd(optarg);
    if (which == 'c') places.client = ParseFd(optarg);
    if (which == 'h') return std::fputs(kUsage, stdout) < 0 ? 1 : 0;
    if (which == '?') return 125;
  }
  if (!places.data.valid() || !places.runtime.valid()) {
    std::fputs(kUsage, stderr);
    return 125;
  }
  // It ends neither with the terminal nor with the session of whoever happened to start it.
  ::setsid();
  ::signal(SIGHUP, SIG_IGN);
  ::signal(SIGPIPE, SIG_IGN);
  ::umask(077);
  [[maybe_unused]] const int moved = ::chdir("/");
  return clearvm::monitor::Monitor(std::move(places)).Run();
}
