#include "metrics/tensorboard.h"

#include <gtest/gtest.h>

#include "support/temp_dir.h"

namespace sft::metrics {
namespace tensorboard_test {

// Check values of RFC 3720, appendix B.4, and of the CRC catalogue.
TEST(Crc32c, HasThePublishedValues) {
  EXPECT_EQ(crc32c(""), 0U);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283U);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aaU);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43U);
}

TEST(TensorBoard, RecordIsLengthMessageAndTwoChecks) {
  const std::string record = tensorboard_record("abc");
  ASSERT_EQ(record.size(), 8U + 4U + 3U + 4U);
  EXPECT_EQ(record.substr(0, 8), std::string("\x03\0\0\0\0\0\0\0", 8));
  EXPECT_EQ(record.substr(12, 3), "abc");
}

TEST(TensorBoard, TagsAreHuggingFaces) {
  EXPECT_EQ(tensorboard_tag("loss"), "train/loss");
  EXPECT_EQ(tensorboard_tag("eval_loss"), "eval/loss");
  EXPECT_EQ(tensorboard_tag("evaluated"), "train/evaluated");
}

TEST(TensorBoard, RunNameCannotLeaveTheFolder) {
  const test::TempDir folder;
  const TensorBoardFile file(folder.path(), "../../elsewhere");
  const auto runs = std::filesystem::directory_iterator(folder / "runs");
  EXPECT_TRUE(std::filesystem::exists(runs->path()));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

}  // namespace tensorboard_test
}  // namespace sft::metrics
