// Text as JSON, the way docker's json-file log writes it.
#ifndef CLEARVM_MONITOR_JSON_H_
#define CLEARVM_MONITOR_JSON_H_

#include <string>
#include <string_view>

namespace clearvm::monitor {

// Appends `text` as a JSON string, quotes included. What is no UTF-8 becomes U+FFFD, a byte each;
// <, > and & are escaped, as Go does it.
void AppendJsonString(std::string& out, std::string_view text);

// "2026-01-31T12:00:00.123456789Z": now, or at that time.
std::string FormatTime(const struct timespec& time);
std::string Now();

}  // namespace clearvm::monitor

#endif  // CLEARVM_MONITOR_JSON_H_
