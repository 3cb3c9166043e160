#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "native/base/result.h"

namespace clearvm {
namespace {

Result<std::unique_ptr<int>> Half(int number) {
  if (number % 2 != 0) return Error{"ERR_ODD", 0, "", std::to_string(number) + " is odd"};
  return std::make_unique<int>(number / 2);
}

Result<std::unique_ptr<int>> Quarter(int number) {
  CLEARVM_ASSIGN(std::unique_ptr<int> half, Half(number));
  return Half(*half);
}

TEST(ResultTest, CarriesMoveOnlyValuesThroughAssign) {
  Result<std::unique_ptr<int>> result = Quarter(12);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(*result.value(), 3);
}

TEST(ResultTest, AssignReturnsTheFirstError) {
  Result<std::unique_ptr<int>> result = Quarter(6);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, "ERR_ODD");
  EXPECT_EQ(result.error().message, "3 is odd");
}

TEST(ResultTest, SystemErrorKeepsErrnoAndAppendsItsText) {
  errno = ENOENT;
  Error error = SystemError("ERR_TEST", "open", "cannot open the door");
  EXPECT_EQ(error.sys_errno, ENOENT);
  EXPECT_EQ(error.syscall, "open");
  EXPECT_NE(error.message.find("cannot open the door"), std::string::npos);
  EXPECT_NE(error.message.find("No such file or directory"), std::string::npos);
}

}  // namespace
}  // namespace clearvm
