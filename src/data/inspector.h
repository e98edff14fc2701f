// The room's side of sft/data/inspector.h, and what it and sft-inspect say to each other.
//
// A connection is a stream socket. Request: the file's path, for messages, and the file as an open
// descriptor. Answer: an exit code in decimal, a line feed, and the layout as JSON (code 0) or what is wrong.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "data/file_layout.h"
#include "sft/base/file.h"

namespace sft::data {

inline constexpr const char* kInspectorName = "sft-inspect";
inline constexpr int64_t kMaxAnswerBytes = int64_t{256} << 20;

// Local, thread-safe. Where the arrays of this data set file lie. Error kInvalidData: it cannot be used; the
// message says why.
FileLayout inspect(const base::File& file);

struct Message {
  std::string text;
  int descriptor = -1;  // owned by the receiver; -1: none
};

// False when the other side is gone. descriptor -1: none is sent along.
bool send_message(int socket, std::string_view text, int descriptor = -1);
// Nothing when the other side is gone, or says something else than a message.
std::optional<Message> receive_message(int socket);

}  // namespace sft::data
