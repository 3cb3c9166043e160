// makeContainerPlaces, writeFile: see src/vm/addon-types.ts.
#include "native/base/files.h"

#include "native/addon/addon.h"

namespace clearvm::addon {
namespace {

void MakePlaces(const Napi::CallbackInfo& info) {
  const auto made = MakeContainerPlaces({
      .run = info[0].As<Napi::String>(),
      .data = info[1].As<Napi::String>(),
      .owner = info[2].As<Napi::String>(),
      .top_layer = info[3].As<Napi::String>(),
  });
  if (!made.ok()) throw ToJsError(info.Env(), made.error());
}

void Write(const Napi::CallbackInfo& info) {
  const std::string path = info[0].As<Napi::String>();
  const std::string text = info[1].As<Napi::String>();
  const auto written = WriteFile(path, text);
  if (!written.ok()) throw ToJsError(info.Env(), written.error());
}

}  // namespace

void RegisterFiles(Napi::Env env, Napi::Object exports) {
  exports.Set("makeContainerPlaces", Napi::Function::New(env, MakePlaces));
  exports.Set("writeFile", Napi::Function::New(env, Write));
}

}  // namespace clearvm::addon
