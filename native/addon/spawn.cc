// spawnVmm, socketPair, pipe, closeFd, releaseFd, lockFile, appendToJournal, exit: see
// src/vm/addon-types.ts.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

#include <memory>

#include "native/addon/addon.h"
#include "native/base/child.h"
#include "native/base/journal.h"

namespace clearvm::addon {
namespace {

// A running child: owned by its libuv handle until it has ended, and by the JS object's kill() as
// long as that lives.
struct Watched {
  explicit Watched(Napi::Env env) : context(env, "clearvm.spawnVmm") {}
  Child child{};
  uv_poll_t poll{};
  Napi::FunctionReference on_exit;
  Napi::AsyncContext context;
  bool ended = false;
};

using Holder = std::shared_ptr<Watched>;

void Release(uv_handle_t* handle) { delete static_cast<Holder*>(handle->data); }

void OnEnd(uv_poll_t* poll, int, int) {
  const Holder watched = *static_cast<Holder*>(poll->data);
  siginfo_t info{};
  if (::waitid(P_PIDFD, static_cast<id_t>(watched->child.pidfd.get()), &info,
               WEXITED | WNOHANG | __WALL) != 0 ||
      info.si_pid == 0) {
    return;
  }
  watched->ended = true;
  uv_poll_stop(poll);
  uv_close(reinterpret_cast<uv_handle_t*>(poll), Release);
  // kill() keeps what is left of this, and the callback keeps kill(): a circle that no collector
  // would find.
  Napi::FunctionReference on_exit = std::move(watched->on_exit);
  watched->child.pidfd = UniqueFd();
  const Napi::Env env = on_exit.Env();
  const Napi::HandleScope scope(env);
  const bool exited = info.si_code == CLD_EXITED;
  const Napi::Value number = Napi::Number::New(env, info.si_status);
  CallFromLoop(on_exit, watched->context,
               {exited ? number : env.Null(), exited ? env.Null() : number});
}

Napi::Value SpawnVmm(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (info.Length() < 2 || !info[0].IsObject() || !info[1].IsFunction()) {
    throw Napi::TypeError::New(env, "spawnVmm(options, onExit)");
  }
  const auto given = info[0].As<Napi::Object>();
  ChildOptions options;
  options.file = given.Get("file").As<Napi::String>();
  const auto arguments = given.Get("args").As<Napi::Array>();
  for (uint32_t i = 0; i < arguments.Length(); i++) {
    options.arguments.push_back(arguments.Get(i).As<Napi::String>());
  }
  const auto fds = given.Get("fds").As<Napi::Array>();
  for (uint32_t i = 0; i < fds.Length(); i++) {
    options.fds.push_back(fds.Get(i).As<Napi::Number>().Int32Value());
  }
  options.namespaces = given.Get("namespaces").ToBoolean();

  auto started = StartChild(options);
  if (!started.ok()) throw ToJsError(env, started.error());
  uv_loop_t* loop = nullptr;
  napi_get_uv_event_loop(env, &loop);
  auto watched = std::make_shared<Watched>(env);
  watched->child = std::move(started).value();
  watched->on_exit = Napi::Persistent(info[1].As<Napi::Function>());
  watched->poll.data = new Holder(watched);
  uv_poll_init(loop, &watched->poll, watched->child.pidfd.get());
  uv_poll_start(&watched->poll, UV_READABLE, OnEnd);
  if (given.Get("background").ToBoolean()) uv_unref(reinterpret_cast<uv_handle_t*>(&watched->poll));

  Napi::Object result = Napi::Object::New(env);
  result.Set("pid", Napi::Number::New(env, watched->child.pid));
  result.Set("ref", Napi::Function::New(env, [watched](const Napi::CallbackInfo&) {
               if (!watched->ended) uv_ref(reinterpret_cast<uv_handle_t*>(&watched->poll));
             }));
  result.Set(
      "kill", Napi::Function::New(env, [watched](const Napi::CallbackInfo& call) {
        // By pidfd: the number may have been given to another process meanwhile.
        const int signal = call[0].As<Napi::Number>().Int32Value();
        if (watched->ended ||
            ::syscall(SYS_pidfd_send_signal, watched->child.pidfd.get(), signal, nullptr, 0) == 0 ||
            errno == ESRCH) {
          return;
        }
        throw ToJsError(call.Env(),
                        SystemError("ERR_KILL", "pidfd_send_signal", "cannot signal the VMM"));
      }));
  return result;
}

Napi::Value Pair(Napi::Env env, const int fds[2]) {
  Napi::Array pair = Napi::Array::New(env, 2);
  pair.Set(0u, Napi::Number::New(env, fds[0]));
  pair.Set(1u, Napi::Number::New(env, fds[1]));
  return pair;
}

Napi::Value SocketPair(const Napi::CallbackInfo& info) {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
    throw ToJsError(info.Env(),
                    SystemError("ERR_SOCKET_PAIR", "socketpair", "cannot make a socket pair"));
  }
  return Pair(info.Env(), fds);
}

Napi::Value Pipe(const Napi::CallbackInfo& info) {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) {
    throw ToJsError(info.Env(), SystemError("ERR_PIPE", "pipe2", "cannot make a pipe"));
  }
  return Pair(info.Env(), fds);
}

void CloseFd(const Napi::CallbackInfo& info) {
  const int fd = info[0].As<Napi::Number>().Int32Value();
  if (::close(fd) != 0) {
    throw ToJsError(info.Env(),
                    SystemError("ERR_CLOSE", "close", "file descriptor " + std::to_string(fd)));
  }
}

void ReleaseFd(const Napi::CallbackInfo& info) {
  const int fd = info[0].As<Napi::Number>().Int32Value();
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null.valid() || ::dup3(null.get(), fd, O_CLOEXEC) < 0) {
    throw ToJsError(info.Env(), SystemError("ERR_RELEASE", "dup3", "cannot release a descriptor"));
  }
}

Napi::Value LockFile(const Napi::CallbackInfo& info) {
  const std::string path = info[0].As<Napi::String>();
  const bool wait = info[1].ToBoolean();
  UniqueFd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (file.valid() && ::flock(file.get(), LOCK_EX | (wait ? 0 : LOCK_NB)) == 0) {
    return Napi::Number::New(info.Env(), file.release());
  }
  if (file.valid() && errno == EWOULDBLOCK) return Napi::Number::New(info.Env(), -1);
  throw ToJsError(info.Env(), SystemError("ERR_LOCK", "flock", "cannot lock " + path));
}

void Append(const Napi::CallbackInfo& info) {
  const std::string directory = info[0].As<Napi::String>();
  const std::string lines = info[1].As<Napi::String>();
  const auto most = static_cast<uint64_t>(info[2].As<Napi::Number>().Int64Value());
  auto appended = AppendToJournal(directory, lines, most);
  if (!appended.ok()) throw ToJsError(info.Env(), appended.error());
}

void Exit(const Napi::CallbackInfo& info) { ::_exit(info[0].As<Napi::Number>().Int32Value()); }

}  // namespace

void RegisterSpawn(Napi::Env env, Napi::Object exports) {
  exports.Set("spawnVmm", Napi::Function::New(env, SpawnVmm));
  exports.Set("socketPair", Napi::Function::New(env, SocketPair));
  exports.Set("pipe", Napi::Function::New(env, Pipe));
  exports.Set("closeFd", Napi::Function::New(env, CloseFd));
  exports.Set("releaseFd", Napi::Function::New(env, ReleaseFd));
  exports.Set("lockFile", Napi::Function::New(env, LockFile));
  exports.Set("appendToJournal", Napi::Function::New(env, Append));
  exports.Set("exit", Napi::Function::New(env, Exit));
}

}  // namespace clearvm::addon
