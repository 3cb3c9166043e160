// openChannel: see src/vm/addon-types.ts.
#include <fcntl.h>
#include <unistd.h>
#include <uv.h>

#include <array>
#include <cerrno>
#include <memory>
#include <vector>

#include "native/addon/addon.h"
#include "native/base/fd.h"

namespace clearvm::addon {
namespace {

constexpr size_t kChunk = 64 * 1024;  // bytes that are read at a time

// One end of a stream socket or pipe: owned by its libuv handle until it is closed, and by the JS
// object's functions as long as that lives.
struct Channel {
  explicit Channel(Napi::Env env) : context(env, "clearvm.openChannel") {}
  UniqueFd fd;
  uv_poll_t poll{};
  Napi::FunctionReference on_data;
  Napi::AsyncContext context;
  std::vector<uint8_t> outgoing;  // what the kernel has not taken yet
  bool closed = false;
  bool paused = false;  // what comes is left where it is
};

using Holder = std::shared_ptr<Channel>;

void OnEvent(uv_poll_t* poll, int status, int events);

void Watch(Channel& channel) {
  const int events =
      (channel.paused ? 0 : UV_READABLE) | (channel.outgoing.empty() ? 0 : UV_WRITABLE);
  if (events == 0) {
    uv_poll_stop(&channel.poll);
  } else {
    uv_poll_start(&channel.poll, events, OnEvent);
  }
}

// Lets go of the callback, which often keeps the channel's object, as that keeps this: a circle
// that no collector would find.
void Close(Channel& channel) {
  if (channel.closed) return;
  channel.closed = true;
  channel.on_data.Reset();
  uv_poll_stop(&channel.poll);
  uv_close(reinterpret_cast<uv_handle_t*>(&channel.poll),
           [](uv_handle_t* handle) { delete static_cast<Holder*>(handle->data); });
  channel.fd.reset();
}

// Writes what it can. A peer that is gone shows as end-of-file: what it has said is still to be
// read.
void Flush(Channel& channel) {
  size_t sent = 0;
  while (sent < channel.outgoing.size()) {
    const ssize_t wrote =
        ::write(channel.fd.get(), channel.outgoing.data() + sent, channel.outgoing.size() - sent);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0 && errno == EAGAIN) break;
    sent = wrote < 0 ? channel.outgoing.size() : sent + static_cast<size_t>(wrote);
  }
  channel.outgoing.erase(channel.outgoing.begin(),
                         channel.outgoing.begin() + static_cast<ptrdiff_t>(sent));
}

// False: that was all for now, or the end.
bool Read(const Holder& channel) {
  static thread_local std::array<uint8_t, kChunk> chunk;
  if (channel->closed || channel->paused) return false;
  const ssize_t got = ::read(channel->fd.get(), chunk.data(), chunk.size());
  if (got < 0 && errno == EINTR) return true;
  if (got < 0 && errno == EAGAIN) return false;
  const Napi::Env env = channel->on_data.Env();
  const Napi::HandleScope scope(env);
  if (got > 0) {
    const auto data = Napi::Buffer<uint8_t>::Copy(env, chunk.data(), static_cast<size_t>(got));
    CallFromLoop(channel->on_data, channel->context, {data});
    return true;
  }
  Napi::FunctionReference on_data = std::move(channel->on_data);
  Close(*channel);
  CallFromLoop(on_data, channel->context, {env.Null()});
  return false;
}

void OnEvent(uv_poll_t* poll, int status, int events) {
  const Holder channel = *static_cast<Holder*>(poll->data);
  if (status == 0 && (events & UV_WRITABLE) != 0) {
    Flush(*channel);
    Watch(*channel);
  }
  if (status < 0) {
    // A socket whose peer closed it without having read everything: libuv watches it no more, and
    // what the peer has said is still to be read.
    while (Read(channel)) {
    }
    return;
  }
  if ((events & UV_READABLE) != 0) Read(channel);
}

// Watches a descriptor, which is the channel's from then on. Throws ERR_CHANNEL.
Holder Open(Napi::Env env, int fd, Napi::Function on_data) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) {
    throw ToJsError(env, SystemError("ERR_CHANNEL", "fcntl", "cannot use a channel's descriptor"));
  }
  uv_loop_t* loop = nullptr;
  napi_get_uv_event_loop(env, &loop);
  auto channel = std::make_shared<Channel>(env);
  if (const int error = uv_poll_init(loop, &channel->poll, fd); error != 0) {
    errno = -error;
    throw ToJsError(env, SystemError("ERR_CHANNEL", "epoll_ctl", "cannot watch a channel"));
  }
  channel->fd = UniqueFd(fd);
  channel->on_data = Napi::Persistent(on_data);
  channel->poll.data = new Holder(channel);
  Watch(*channel);
  return channel;
}

// What JavaScript has of a channel. A class, because making closures for each takes Node longer
// than all the rest.
class ChannelObject : public Napi::ObjectWrap<ChannelObject> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "Channel",
                       {InstanceMethod<&ChannelObject::Write>("write"),
                        InstanceMethod<&ChannelObject::Pause>("pause"),
                        InstanceMethod<&ChannelObject::Resume>("resume"),
                        InstanceMethod<&ChannelObject::CloseIt>("close"),
                        InstanceMethod<&ChannelObject::Ref>("ref"),
                        InstanceMethod<&ChannelObject::Unref>("unref")});
  }

  explicit ChannelObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    if (info.Length() < 2 || !info[0].IsNumber() || !info[1].IsFunction()) {
      throw Napi::TypeError::New(info.Env(), "openChannel(fd, onData)");
    }
    channel_ =
        Open(info.Env(), info[0].As<Napi::Number>().Int32Value(), info[1].As<Napi::Function>());
  }

 private:
  void Write(const Napi::CallbackInfo& call) {
    const auto bytes = call[0].As<Napi::Uint8Array>();
    if (channel_->closed) return;
    channel_->outgoing.insert(channel_->outgoing.end(), bytes.Data(),
                              bytes.Data() + bytes.ByteLength());
    Flush(*channel_);
    if (!channel_->outgoing.empty()) Watch(*channel_);
  }
  void Pause(const Napi::CallbackInfo&) { SetPaused(true); }
  void Resume(const Napi::CallbackInfo&) { SetPaused(false); }
  void SetPaused(bool paused) {
    if (channel_->closed || channel_->paused == paused) return;
    channel_->paused = paused;
    Watch(*channel_);
  }
  void CloseIt(const Napi::CallbackInfo&) { Close(*channel_); }
  void Ref(const Napi::CallbackInfo&) { uv_ref(reinterpret_cast<uv_handle_t*>(&channel_->poll)); }
  void Unref(const Napi::CallbackInfo&) {
    uv_unref(reinterpret_cast<uv_handle_t*>(&channel_->poll));
  }

  Holder channel_;
};

}  // namespace

void RegisterChannel(Napi::Env env, Napi::Object exports) {
  // It lives as long as the environment.
  auto* made = new Napi::FunctionReference(Napi::Persistent(ChannelObject::Define(env)));
  made->SuppressDestruct();
  exports.Set("openChannel", Napi::Function::New(env, [made](const Napi::CallbackInfo& info) {
                return made->New({info[0], info[1]});
              }));
}

}  // namespace clearvm::addon
