#include "parallel/lifeline.h"

#include <fmt/ranges.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>

#include <algorithm>
#include <array>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <utility>

#include "sft/base/log.h"

namespace sft::parallel {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;
using std::chrono::milliseconds;

constexpr milliseconds kPatience{10'000};  // for all ranks to come
constexpr milliseconds kPerAddress{2'000};
constexpr std::size_t kTokenBytes = 32;
constexpr std::size_t kStrangers = 64;  // as many may stand at the door at once

// What goes over a connection, besides the numbers of lost ranks.
constexpr int32_t kFarewell = -1, kWelcome = -2, kReady = -3;

struct Hello {
  std::array<char, kTokenBytes> token;
  int32_t rank;
};

std::string make_token() {
  std::random_device random;
  std::string token;
  while (token.size() < kTokenBytes) token += fmt::format("{:08x}", random());
  return token;
}

// Numeric addresses of this host that others may reach.
std::vector<std::string> own_addresses() {
  std::vector<std::string> found;
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) return found;
  for (const ifaddrs* at = all; at != nullptr; at = at->ifa_next) {
    if (at->ifa_addr == nullptr || (at->ifa_flags & IFF_UP) == 0 || (at->ifa_flags & IFF_LOOPBACK) != 0)
      continue;
    const int family = at->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    std::array<char, NI_MAXHOST> text{};
    const socklen_t size = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    if (::getnameinfo(at->ifa_addr, size, text.data(), text.size(), nullptr, 0, NI_NUMERICHOST) != 0)
      continue;
    if (std::strchr(text.data(), '%') == nullptr)
      found.emplace_back(text.data());  // with one: of a single link
  }
  ::freeifaddrs(all);
  return found;
}

// Such a message finds room in any buffer: nothing waits.
void send(tcp::socket& socket, int32_t message) {
  error_code ignored;
  asio::write(socket, asio::buffer(&message, sizeof(message)), ignored);
}

}  // namespace

std::string LifelineOffer::to_text() const {
  return nlohmann::json{{"host", host}, {"addresses", addresses}, {"port", port}, {"token", token}}.dump();
}

LifelineOffer LifelineOffer::from_text(const std::string& text) {
  const auto json = nlohmann::json::parse(text);
  return {json.at("host"), json.at("addresses"), json.at("port"), json.at("token")};
}

void Lifeline::start(std::function<void()> work) {
  thread_ = std::thread(std::move(work));
}

// stop() comes before the look at stopping_, or after restart().
void Lifeline::run(milliseconds at_most) {
  io_.restart();
  if (!stopping_) io_.run_for(at_most);
}

void Lifeline::stop() {
  stopping_ = true;
  io_.stop();
  if (thread_.joinable()) thread_.join();
}

struct LifelineHub::Guest {
  explicit Guest(tcp::socket connection) : socket(std::move(connection)) {}
  tcp::socket socket;
  Hello hello{};
  bool known = false;  // by its token
  int32_t message = 0;
};

LifelineHub::LifelineHub(int world_size, std::string host, Lost lost, milliseconds patience)
    : Lifeline(std::move(lost)),
      world_size_(world_size),
      ranks_(static_cast<std::size_t>(world_size)),
      missing_(ranks_.size() - 1) {
  std::iota(missing_.begin(), missing_.end(), 1);
  offer_.host = std::move(host);
  offer_.token = make_token();
  offer_.addresses = own_addresses();
  listen();
  if (offer_.port == 0) return;
  accept();
  patience_.expires_after(patience);
  patience_.async_wait([this](error_code error) {
    if (error) return;
    log::info(
        "note: port {} of {} cannot be reached over TCP from rank {}: only the launcher can tell of their "
        "end",
        offer_.port, offer_.host, fmt::join(missing_, ", "));
    close_door();
  });
  start([this] { run(); });
}

LifelineHub::~LifelineHub() {
  stop();
  if (!leaves_) return;
  close_door();
  for (const auto& guest : ranks_) {
    if (guest) send(guest->socket, kFarewell);
  }
}

// Over both protocols, or the older one where the kernel has no other.
void LifelineHub::listen() {
  error_code error;
  for (const tcp& protocol : {tcp::v6(), tcp::v4()}) {
    door_.open(protocol, error);
    if (!error && protocol == tcp::v6()) door_.set_option(asio::ip::v6_only(false), error);
    if (!error) door_.bind({protocol, 0}, error);
    if (!error) door_.listen(asio::socket_base::max_listen_connections, error);
    if (!error) {
      offer_.port = door_.local_endpoint().port();
      return;
    }
    error_code ignored;
    door_.close(ignored);
  }
  log::info("note: rank 0 cannot listen for the others ({}): only the launcher can tell of a rank's end",
            error.message());
}

void LifelineHub::accept() {
  door_.async_accept([this](error_code error, tcp::socket socket) {
    if (error) return;
    if (coming_.size() < static_cast<std::size_t>(world_size_) + kStrangers) {
      coming_.push_back(std::make_shared<Guest>(std::move(socket)));
      read_hello(coming_.back());
    }
    accept();
  });
}

void LifelineHub::read_hello(const std::shared_ptr<Guest>& guest) {
  asio::async_read(guest->socket, asio::buffer(&guest->hello, sizeof(guest->hello)),
                   [this, guest](error_code error, std::size_t) {
                     const Hello& hello = guest->hello;
                     guest->known = !error &&
                                    std::memcmp(hello.token.data(), offer_.token.data(), kTokenBytes) == 0 &&
                                    hello.rank > 0 && hello.rank < world_size_;
                     if (guest->known) return welcome(guest);
                     std::erase(coming_, guest);
                   });
}

// A rank that has given up waiting for this comes again at another address: only one that has answered is
// watched.
void LifelineHub::welcome(const std::shared_ptr<Guest>& guest) {
  send(guest->socket, kWelcome);
  asio::async_read(guest->socket, asio::buffer(&guest->message, sizeof(guest->message)),
                   [this, guest](error_code error, std::size_t) {
                     std::erase(coming_, guest);
                     if (error || guest->message != kReady || std::erase(missing_, guest->hello.rank) == 0)
                       return;
                     ranks_[static_cast<std::size_t>(guest->hello.rank)] = guest;
                     for (const int rank : gone_) send(guest->socket, rank);
                     watch(guest);
                     if (missing_.empty()) close_door();
                   });
}

void LifelineHub::watch(const std::shared_ptr<Guest>& guest) {
  asio::async_read(guest->socket, asio::buffer(&guest->message, sizeof(guest->message)),
                   [this, guest](error_code error, std::size_t) {
                     const int rank = guest->hello.rank;
                     ranks_[static_cast<std::size_t>(rank)] = nullptr;
                     if (error != asio::error::eof) return;  // a farewell, or a connection that broke
                     for (const auto& other : ranks_) {
                       if (other) send(other->socket, rank);
                     }
                     gone_.push_back(rank);
                     lost_(rank);
                   });
}

// A rank that has just come would take an end without a word for this rank's.
void LifelineHub::close_door() {
  error_code ignored;
  door_.close(ignored);
  patience_.cancel();
  for (const auto& guest : coming_) {
    if (guest->known) send(guest->socket, kFarewell);
    guest->socket.close(ignored);
  }
}

LifelineSpoke::LifelineSpoke(int rank, const std::string& host, LifelineOffer offer, Lost lost)
    : Lifeline(std::move(lost)), rank_(rank), offer_(std::move(offer)) {
  if (offer_.port == 0) return;
  if (host == offer_.host) offer_.addresses.insert(offer_.addresses.begin(), "127.0.0.1");
  start([this] {
    for (const std::string& address : offer_.addresses) {
      if (connect(address)) return watch(), run();
    }
  });
}

LifelineSpoke::~LifelineSpoke() {
  stop();
  if (leaves_ && connected_) send(socket_, kFarewell);
}

bool LifelineSpoke::connect(const std::string& address) {
  error_code error;
  const tcp::endpoint rank_0(asio::ip::make_address(address, error), offer_.port);
  if (error) return false;
  Hello hello{.token = {}, .rank = rank_};
  std::copy_n(offer_.token.begin(), kTokenBytes, hello.token.begin());
  int32_t answer = 0;
  socket_.async_connect(rank_0, [&](error_code failed) {
    if (failed) return;
    asio::async_write(socket_, asio::buffer(&hello, sizeof(hello)), [&](error_code not_sent, std::size_t) {
      if (not_sent) return;
      asio::async_read(socket_, asio::buffer(&answer, sizeof(answer)),
                       [&](error_code none, std::size_t) { connected_ = !none && answer == kWelcome; });
    });
  });
  run(kPerAddress);
  if (connected_) {
    send(socket_, kReady);
    return true;
  }
  socket_.close(error);
  run();  // what was under way comes to its end: it uses variables of this function
  connected_ = false;
  return false;
}

void LifelineSpoke::watch() {
  asio::async_read(socket_, asio::buffer(&heard_, sizeof(heard_)), [this](error_code error, std::size_t) {
    if (error == asio::error::eof) return lost_(0);
    if (error || heard_ == kFarewell) return;
    lost_(heard_);
    watch();
  });
}

std::unique_ptr<Lifeline> make_lifeline(ControlPlane& world, const std::string& host, Lifeline::Lost lost) {
  if (world.rank() == 0) {
    auto hub = std::make_unique<LifelineHub>(world.size(), host, std::move(lost), kPatience);
    world.broadcast_bytes(hub->offer().to_text(), 0);
    return hub;
  }
  const LifelineOffer offer = LifelineOffer::from_text(world.broadcast_bytes({}, 0));
  return std::make_unique<LifelineSpoke>(world.rank(), host, offer, std::move(lost));
}

}  // namespace sft::parallel
