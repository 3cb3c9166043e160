// clearvm-userns: runs a program in the user namespace of an ordinary user's containers.
#include <fcntl.h>
#include <getopt.h>
#include <malloc.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "native/jail/sandbox.h"
#include "native/jail/user_namespace.h"

namespace {

constexpr char kUsage[] =
    "usage: clearvm-userns --directory DIR [--user NAME] [--] PROGRAM [ARGUMENT...]\n"
    "       clearvm-userns --sandbox -- SCRATCH TARGET PROGRAM [ARGUMENT...]\n"
    "Runs a program as root of the user namespace that an ordinary user's containers share, or one "
    "that\n"
    "writes to nothing but a directory. The engine starts it.\n"
    "\n"
    "  --directory DIR  the user's own runtime directory\n"
    "  --user NAME      the user's name in /etc/subuid and /etc/subgid\n"
    "  --sandbox        TARGET is the program's /tmp, and all else read-only; SCRATCH is an empty "
    "directory\n";

const option kOptions[] = {
    {"directory", required_argument, nullptr, 'd'},
    {"user", required_argument, nullptr, 'u'},
    {"sandbox", no_argument, nullptr, 's'},
    {"help", no_argument, nullptr, 'h'},
    {nullptr, 0, nullptr, 0},
};

int Complain(const clearvm::Error& error) {
  std::fprintf(stderr, "clearvm: %s\n", error.message.c_str());
  return 125;
}

int Execute(char** argv) {
  ::execvp(argv[0], argv);
  return Complain(clearvm::SystemError("ERR_EXEC", "execve", std::string("cannot run ") + argv[0]));
}

}  // namespace

int main(int argc, char** argv) {
  ::mallopt(M_ARENA_MAX, 1);
  clearvm::jail::UserNamespaceOptions options;
  bool sandbox = false;
  for (int which; (which = ::getopt_long(argc, argv, "+", kOptions, nullptr)) != -1;) {
    if (which == 'd') options.directory = optarg;
    if (which == 'u') options.user = optarg;
    if (which == 's') sandbox = true;
    if (which == 'h') return std::fputs(kUsage, stdout) < 0 ? 1 : 0;
    if (which == '?') return 125;
  }
  if (argc - optind < (sandbox ? 3 : 1) || sandbox != options.directory.empty()) {
    std::fputs(kUsage, stderr);
    return 125;
  }
  if (sandbox) {
    auto entered = clearvm::jail::EnterSandbox(argv[optind], argv[optind + 1]);
    if (!entered.ok()) return Complain(entered.error());
    // What comes on standard error from here on is the program's.
    std::fputs("ready\n", stderr);
    return Execute(argv + optind + 2);
  }
  // A descriptor of its own must not be taken for a standard stream.
  int null;
  while ((null = ::open("/dev/null", O_RDWR)) >= 0 && null < 3) {
  }
  ::close(null);
  std::string warning;
  auto entered = clearvm::jail::EnterUserNamespace(options, &warning);
  if (!entered.ok()) return Complain(entered.error());
  if (!warning.empty()) std::fprintf(stderr, "clearvm: warning: %s\n", warning.c_str());
  char self[4096];
  const ssize_t length = ::readlink("/proc/self/exe", self, sizeof self - 1);
  if (length <= 0) {
    return Complain(clearvm::SystemError("ERR_USER_NAMESPACE", "readlink", "cannot find itself"));
  }
  self[length] = 0;
  // How what runs inside knows: see src/user-namespace.ts.
  ::setenv("CLEARVM_USERNS", self, 1);
  ::setenv("CLEARVM_USERNS_DIRECTORY", options.directory.c_str(), 1);
  return Execute(argv + optind);
}
