// makeNetwork, mountTmpfs, makeSocketFile, mountsChanged: see src/vm/addon-types.ts.
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>

#include "native/addon/addon.h"

namespace clearvm::addon {
namespace {

void MountTmpfs(const Napi::CallbackInfo& info) {
  const std::string path = info[0].As<Napi::String>();
  const std::string options = info[1].As<Napi::String>();
  if (::mount("clearvm", path.c_str(), "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
              options.c_str()) != 0) {
    throw ToJsError(info.Env(),
                    SystemError("ERR_MOUNT", "mount", "cannot mount a tmpfs on " + path));
  }
}

void MakeSocketFile(const Napi::CallbackInfo& info) {
  const auto bytes = info[0].As<Napi::Uint8Array>();
  const std::string path(reinterpret_cast<const char*>(bytes.Data()), bytes.ByteLength());
  const mode_t mode = info[1].As<Napi::Number>().Uint32Value() & 07777;
  const uid_t uid = info[2].As<Napi::Number>().Uint32Value();
  const gid_t gid = info[3].As<Napi::Number>().Uint32Value();
  if (::mknod(path.c_str(), S_IFSOCK | mode, 0) != 0 || ::lchown(path.c_str(), uid, gid) != 0 ||
      ::chmod(path.c_str(), mode) != 0) {
    throw ToJsError(info.Env(),
                    SystemError("ERR_STATE", "mknod", "cannot make the socket " + path));
  }
}

// By a thread of its own, which takes the namespace on and ends.
void MakeNetwork(const Napi::CallbackInfo& info) {
  const std::string path = info[0].As<Napi::String>();
  int failed = 0;
  std::thread([&] {
    if (::unshare(CLONE_NEWNET) != 0 ||
        ::mount("/proc/thread-self/ns/net", path.c_str(), nullptr, MS_BIND, nullptr) != 0) {
      failed = errno;
    }
  }).join();
  if (failed == 0) return;
  errno = failed;
  throw ToJsError(info.Env(),
                  SystemError("ERR_MOUNT", "mount", "cannot make a network namespace at " + path));
}

// proc(5): a poll of it shows each change once.
Napi::Value MountsChanged(const Napi::CallbackInfo& info) {
  pollfd mounts{info[0].As<Napi::Number>().Int32Value(), POLLPRI, 0};
  return Napi::Boolean::New(info.Env(), ::poll(&mounts, 1, 0) != 0);
}

}  // namespace

void RegisterMount(Napi::Env env, Napi::Object exports) {
  exports.Set("makeNetwork", Napi::Function::New(env, MakeNetwork));
  exports.Set("makeSocketFile", Napi::Function::New(env, MakeSocketFile));
  exports.Set("mountsChanged", Napi::Function::New(env, MountsChanged));
  exports.Set("mountTmpfs", Napi::Function::New(env, MountTmpfs));
}

}  // namespace clearvm::addon
