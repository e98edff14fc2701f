#include <sys/socket.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <span>

#include "data/inspector.h"

namespace sft::data {
namespace {

// Room for the one descriptor that may come along.
union Control {
  cmsghdr header;
  char bytes[CMSG_SPACE(sizeof(int))];
};

bool send_all(int socket, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(count));
  }
  return true;
}

bool receive_all(int socket, std::span<char> out) {
  while (!out.empty()) {
    const ssize_t count = ::recv(socket, out.data(), out.size(), 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    out = out.subspan(static_cast<std::size_t>(count));
  }
  return true;
}

bool send_descriptor(int socket, iovec& data, int descriptor) {
  Control control{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes;
  message.msg_controllen = sizeof(control.bytes);
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &descriptor, sizeof(int));
  return ::sendmsg(socket, &message, MSG_NOSIGNAL) == static_cast<ssize_t>(data.iov_len);
}

}  // namespace

bool send_message(int socket, std::string_view text, int descriptor) {
  uint64_t length = text.size();
  if (descriptor < 0) {
    return send_all(socket, {reinterpret_cast<const char*>(&length), sizeof(length)}) &&
           send_all(socket, text);
  }
  iovec data{&length, sizeof(length)};
  return send_descriptor(socket, data, descriptor) && send_all(socket, text);
}

std::optional<Message> receive_message(int socket) {
  uint64_t length = 0;
  iovec data{&length, sizeof(length)};
  Control control{};
  msghdr header{};
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  header.msg_control = control.bytes;
  header.msg_controllen = sizeof(control.bytes);
  ssize_t count = 0;
  do {
    count = ::recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  } while (count < 0 && errno == EINTR);
  if (count <= 0) return std::nullopt;
  const auto got = static_cast<std::size_t>(count);
  if (!receive_all(socket, std::span(reinterpret_cast<char*>(&length), sizeof(length)).subspan(got)) ||
      length > static_cast<uint64_t>(kMaxAnswerBytes)) {
    return std::nullopt;
  }
  Message message;
  const cmsghdr* part = CMSG_FIRSTHDR(&header);
  if (part != nullptr && part->cmsg_type == SCM_RIGHTS && part->cmsg_len == CMSG_LEN(sizeof(int)))
    std::memcpy(&message.descriptor, CMSG_DATA(part), sizeof(int));
  message.text.resize(length);
  if (!receive_all(socket, message.text)) return std::nullopt;
  return message;
}

}  // namespace sft::data
