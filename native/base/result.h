// Errors as values: every function in native/ that can fail returns a Result.
#ifndef CLEARVM_BASE_RESULT_H_
#define CLEARVM_BASE_RESULT_H_

#include <cerrno>
#include <string>
#include <utility>
#include <variant>

namespace clearvm {

// One failure: a stable code for programs, the errno and system call where there was one, and a
// sentence for people that names the thing, the cause and what to do.
struct Error {
  std::string code;     // e.g. "ERR_KVM_OPEN"; stable, part of the API
  int sys_errno = 0;    // 0 where no system call failed
  std::string syscall;  // e.g. "ioctl(KVM_CREATE_VM)"; empty where no system call failed
  std::string message;
};

// An Error for a system call that has just failed; takes errno as it stands, and appends its text.
Error SystemError(std::string code, std::string syscall, std::string message);

// A value or an Error. Check ok() before value() or error().
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}
  bool ok() const { return state_.index() == 0; }
  T& value() & { return *std::get_if<0>(&state_); }
  const T& value() const& { return *std::get_if<0>(&state_); }
  T&& value() && { return std::move(*std::get_if<0>(&state_)); }
  Error& error() { return *std::get_if<1>(&state_); }
  const Error& error() const { return *std::get_if<1>(&state_); }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)), ok_(false) {}
  bool ok() const { return ok_; }
  Error& error() { return error_; }
  const Error& error() const { return error_; }

 private:
  Error error_;
  bool ok_ = true;
};

}  // namespace clearvm

// Returns the error of `expression` (a Result) from the enclosing function, if it has one.
#define CLEARVM_RETURN_IF_ERROR(expression)                         \
  do {                                                              \
    if (auto clearvm_result_ = (expression); !clearvm_result_.ok()) \
      return std::move(clearvm_result_.error());                    \
  } while (0)

#define CLEARVM_CONCAT_INNER_(a, b) a##b
#define CLEARVM_CONCAT_(a, b) CLEARVM_CONCAT_INNER_(a, b)

// Declares `declaration` from the value of `expression` (a Result), or returns its error.
#define CLEARVM_ASSIGN(declaration, expression)                           \
  auto CLEARVM_CONCAT_(clearvm_result_, __LINE__) = (expression);         \
  if (!CLEARVM_CONCAT_(clearvm_result_, __LINE__).ok())                   \
    return std::move(CLEARVM_CONCAT_(clearvm_result_, __LINE__).error()); \
  declaration = std::move(CLEARVM_CONCAT_(clearvm_result_, __LINE__)).value()

#endif  // CLEARVM_BASE_RESULT_H_
