#include "native/monitor/request.h"

#include "native/base/bytes.h"

namespace clearvm::monitor {
namespace {

Error BadRequest(const std::string& problem) {
  return Error{"ERR_MONITOR_REQUEST", 0, "", "the start request: " + problem};
}

Result<void> Take(Request& request, uint16_t tag, std::span<const uint8_t> value) {
  const std::string text(reinterpret_cast<const char*>(value.data()), value.size());
  ByteReader numbers(value);
  switch (tag) {
    case CLEARVM_MONITOR_VMM:
      request.vmm = text;
      return {};
    case CLEARVM_MONITOR_ARG:
      request.arguments.push_back(text);
      return {};
    case CLEARVM_MONITOR_FIRST_ARG:
      request.first_arguments.push_back(text);
      return {};
    case CLEARVM_MONITOR_KERNEL:
      request.kernel = text;
      return {};
    case CLEARVM_MONITOR_INITRD:
      request.initrd = text;
      return {};
    case CLEARVM_MONITOR_SPEC:
      request.spec.assign(value.begin(), value.end());
      return {};
    case CLEARVM_MONITOR_ID:
      request.id = text;
      return {};
    case CLEARVM_MONITOR_REMOVE:
      if (!text.starts_with('/')) return BadRequest("a relative path");
      request.remove.push_back(text);
      return {};
    case CLEARVM_MONITOR_EVENTS:
      if (!text.starts_with('/')) return BadRequest("a relative path");
      request.events = text;
      return {};
    case CLEARVM_MONITOR_ACTOR:
      if (!text.starts_with('{') || !text.ends_with('}') || text.find('\n') != text.npos) {
        return BadRequest("no JSON object");
      }
      request.actor = text;
      return {};
    case CLEARVM_MONITOR_HEALTH: {
      CLEARVM_ASSIGN(request.health, ParseHealth(value));
      return {};
    }
    case CLEARVM_MONITOR_RESTART: {
      CLEARVM_ASSIGN(request.restart, ParseRestartPolicy(value));
      return {};
    }
    case CLEARVM_MONITOR_LOG:
      request.log_size = numbers.Take<uint64_t>();
      request.log_files = numbers.Take<uint32_t>();
      break;
    case CLEARVM_MONITOR_STDIO:
      request.stdio = numbers.Take<uint32_t>();
      break;
    case CLEARVM_MONITOR_STOP:
      request.stop_signal = numbers.Take<uint32_t>();
      request.stop_seconds = numbers.Take<uint32_t>();
      break;
    default:
      return BadRequest("unknown tag " + std::to_string(tag));
  }
  if (!numbers.Finished()) return BadRequest("tag " + std::to_string(tag) + " has a wrong size");
  return {};
}

}  // namespace

Result<RestartPolicy> ParseRestartPolicy(std::span<const uint8_t> value) {
  ByteReader numbers(value);
  const auto kind = numbers.Take<uint32_t>();
  const auto most = numbers.Take<uint32_t>();
  if (!numbers.Finished() || kind > CLEARVM_RESTART_UNLESS_STOPPED) {
    return BadRequest("no restart policy");
  }
  return RestartPolicy{static_cast<clearvm_restart>(kind), most};
}

Result<Request> ParseRequest(std::span<const uint8_t> bytes) {
  Request request;
  ByteReader reader(bytes);
  while (!reader.Finished()) {
    const auto header = reader.Take<clearvm_tlv>();
    const std::span<const uint8_t> value = reader.TakeBytes(header.length);
    if (!reader.ok()) return BadRequest("it is cut short");
    CLEARVM_RETURN_IF_ERROR(Take(request, header.tag, value));
  }
  if (request.vmm.empty() || request.kernel.empty() || request.initrd.empty() ||
      request.id.empty() || request.spec.empty()) {
    return BadRequest("something is missing");
  }
  return request;
}

}  // namespace clearvm::monitor
