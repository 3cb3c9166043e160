// execute: see src/vm/addon-types.ts.
#include <fcntl.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "native/addon/addon.h"

namespace clearvm::addon {
namespace {

void Execute(const Napi::CallbackInfo& info) {
  const std::string file = info[0].As<Napi::String>();
  const auto given = info[1].As<Napi::Array>();
  std::vector<std::string> arguments;
  for (uint32_t i = 0; i < given.Length(); i++) {
    arguments.push_back(given.Get(i).As<Napi::String>());
  }
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  // Node keeps what it was given from its children.
  for (int fd = 0; fd < 3; fd++) ::fcntl(fd, F_SETFD, 0);
  ::execv(file.c_str(), argv.data());
  throw ToJsError(info.Env(), SystemError("ERR_EXEC", "execve", "cannot execute " + file));
}

}  // namespace

void RegisterExecute(Napi::Env env, Napi::Object exports) {
  exports.Set("execute", Napi::Function::New(env, Execute));
}

}  // namespace clearvm::addon
