#include "parallel/lifeline.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace sft::parallel {
namespace lifeline_test {

using boost::asio::ip::tcp;
using std::chrono::milliseconds;
using std::chrono::seconds;

// The ranks that one rank was told of.
class Losses {
 public:
  Lifeline::Lost hear() {
    return [this](int rank) {
      const std::lock_guard lock(mutex_);
      ranks_.push_back(rank);
      changed_.notify_all();
    };
  }
  std::vector<int> wait_for(std::size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, seconds(20), [&] { return ranks_.size() >= count; });
    std::sort(ranks_.begin(), ranks_.end());
    return ranks_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int> ranks_;
};

// A world in one process.
class Lifelines : public ::testing::Test {
 protected:
  void start(int world_size, milliseconds patience = seconds(20)) {
    losses = std::vector<Losses>(static_cast<std::size_t>(world_size));
    auto hub = std::make_unique<LifelineHub>(world_size, "here", losses[0].hear(), patience);
    offer = hub->offer();
    ranks.push_back(std::move(hub));
  }
  void join(int rank) {
    ranks.push_back(
        std::make_unique<LifelineSpoke>(rank, "here", offer, losses[static_cast<std::size_t>(rank)].hear()));
  }
  // Connections that have come as far as a rank's do.
  tcp::socket welcomed(int32_t rank) {
    tcp::socket socket(io);
    socket.connect({boost::asio::ip::make_address("127.0.0.1"), offer.port});
    boost::asio::write(socket, boost::asio::buffer(offer.token));
    boost::asio::write(socket, boost::asio::buffer(&rank, sizeof(rank)));
    int32_t message = 0;
    boost::asio::read(socket, boost::asio::buffer(&message, sizeof(message)));
    EXPECT_EQ(message, -2);
    return socket;
  }
  tcp::socket ready(int32_t rank) {
    tcp::socket socket = welcomed(rank);
    const int32_t message = -3;
    boost::asio::write(socket, boost::asio::buffer(&message, sizeof(message)));
    return socket;
  }
  bool door_is_open() {
    tcp::socket socket(io);
    boost::system::error_code error;
    socket.connect({boost::asio::ip::make_address("127.0.0.1"), offer.port}, error);
    return !error;
  }
  // Which it is as soon as all have come.
  void wait_until_door_is_closed() {
    for (int i = 0; i < 2000 && door_is_open(); ++i) std::this_thread::sleep_for(milliseconds(10));
    EXPECT_FALSE(door_is_open());
  }

  boost::asio::io_context io;
  std::vector<Losses> losses;  // outlive the threads that tell
  LifelineOffer offer;
  std::vector<std::unique_ptr<Lifeline>> ranks;
};

TEST_F(Lifelines, AnOfferKeepsAllThatIsInIt) {
  const LifelineOffer sent{.host = "a\"b", .addresses = {"10.0.0.1", "fd00::1"}, .port = 65535, .token = "t"};
  const LifelineOffer came = LifelineOffer::from_text(sent.to_text());
  EXPECT_EQ(came.host, sent.host);
  EXPECT_EQ(came.addresses, sent.addresses);
  EXPECT_EQ(came.port, sent.port);
  EXPECT_EQ(came.token, sent.token);
}

TEST_F(Lifelines, ARankThatEndsIsToldToAllOthersOnce) {
  start(4);
  for (const int rank : {1, 2, 3}) join(rank);
  wait_until_door_is_closed();
  ranks[2].reset();
  for (const std::size_t other : {0, 1, 3}) EXPECT_EQ(losses[other].wait_for(1), (std::vector{2})) << other;
  ranks[1].reset();
  for (const std::size_t other : {0, 3}) EXPECT_EQ(losses[other].wait_for(2), (std::vector{1, 2})) << other;
  EXPECT_TRUE(losses[2].wait_for(0).empty());
}

TEST_F(Lifelines, WhoComesLaterIsToldOfThoseThatHaveEnded) {
  start(3);
  ready(1).close();
  EXPECT_EQ(losses[0].wait_for(1), (std::vector{1}));
  join(2);
  EXPECT_EQ(losses[2].wait_for(1), (std::vector{1}));
}

TEST_F(Lifelines, TheEndOfRank0IsTold) {
  start(3);
  for (const int rank : {1, 2}) join(rank);
  wait_until_door_is_closed();
  ranks[0].reset();
  for (const std::size_t other : {1, 2}) EXPECT_EQ(losses[other].wait_for(1), (std::vector{0})) << other;
}

TEST_F(Lifelines, RanksThatSayFarewellAreNoLoss) {
  for (const std::vector<std::size_t>& order :
       {std::vector<std::size_t>{0, 1, 2, 3}, {3, 1, 0, 2}, {1, 2, 3, 0}}) {
    ranks.clear();
    start(4);
    for (const int rank : {1, 2, 3}) join(rank);
    wait_until_door_is_closed();
    for (const std::size_t rank : order) {
      ranks[rank]->farewell();
      ranks[rank].reset();
      std::this_thread::sleep_for(milliseconds(20));
    }
    for (Losses& each : losses) EXPECT_TRUE(each.wait_for(0).empty());
  }
}

// What a kernel does for a process that is killed.
TEST_F(Lifelines, AKilledProcessIsTold) {
  int offers[2];
  ASSERT_EQ(::pipe(offers), 0);
  const pid_t child = ::fork();  // before there is a hub, whose sockets it would keep open
  if (child == 0) {
    std::string text(4096, ' ');  // what is not read over stays blank
    static_cast<void>(!::read(offers[0], text.data(), text.size()));
    const LifelineSpoke rank(1, "here", LifelineOffer::from_text(text), [](int) {});
    for (;;) ::pause();
  }
  start(2);
  const std::string text = offer.to_text();
  ASSERT_EQ(::write(offers[1], text.data(), text.size()), static_cast<ssize_t>(text.size()));
  wait_until_door_is_closed();
  EXPECT_TRUE(losses[0].wait_for(0).empty());
  ::kill(child, SIGKILL);
  EXPECT_EQ(losses[0].wait_for(1), (std::vector{1}));
  ::waitpid(child, nullptr, 0);
  ::close(offers[0]);
  ::close(offers[1]);
}

TEST_F(Lifelines, WhoDoesNotKnowTheTokenIsTurnedAwayAndChangesNothing) {
  start(2);
  const auto stranger = [&](const std::string& says) {
    tcp::socket socket(io);
    socket.connect({boost::asio::ip::make_address("127.0.0.1"), offer.port});
    boost::asio::write(socket, boost::asio::buffer(says));
    char byte = 0;
    boost::system::error_code error;
    const std::size_t answered = boost::asio::read(socket, boost::asio::buffer(&byte, 1), error);
    return std::pair(answered,
                     error == boost::asio::error::eof || error == boost::asio::error::connection_reset);
  };
  const std::string rank_1("\1\0\0\0", 4), rank_9("\11\0\0\0", 4), rank_0(4, '\0');
  const std::pair turned_away(std::size_t{0}, true);
  EXPECT_EQ(stranger(std::string(32, 'x') + rank_1), turned_away);
  EXPECT_EQ(stranger(offer.token + rank_9), turned_away) << "there is no such rank";
  EXPECT_EQ(stranger(offer.token + rank_0), turned_away);
  EXPECT_EQ(stranger("GET / HTTP/1.1\r\nHost: a host with a name\r\n\r\n"), turned_away);
  tcp::socket silent(io);
  silent.connect({boost::asio::ip::make_address("127.0.0.1"), offer.port});
  welcomed(1).close();  // a rank that goes before it has answered is not there yet
  EXPECT_TRUE(door_is_open());
  join(1);
  wait_until_door_is_closed();
  char byte = 0;
  boost::system::error_code error;
  boost::asio::read(silent, boost::asio::buffer(&byte, 1), error);
  EXPECT_TRUE(error) << "who still stands at the door when it closes is sent away";
  EXPECT_TRUE(losses[0].wait_for(0).empty());
  ranks[1].reset();
  EXPECT_EQ(losses[0].wait_for(1), (std::vector{1}));
}

TEST_F(Lifelines, ABrokenConnectionIsNoLoss) {
  start(2);
  tcp::socket rank_1 = ready(1);
  wait_until_door_is_closed();
  rank_1.set_option(
      boost::asio::socket_base::linger(true, 0));  // it ends by RST, as when a device on the way forgets it
  rank_1.close();
  std::this_thread::sleep_for(milliseconds(300));
  EXPECT_TRUE(losses[0].wait_for(0).empty());
}

TEST_F(Lifelines, TheDoorClosesWhenPatienceEndsAndWhoIsThereIsWatched) {
  start(3, milliseconds(1000));
  join(1);
  tcp::socket late = welcomed(2);
  wait_until_door_is_closed();
  int32_t message = 0;
  boost::asio::read(late, boost::asio::buffer(&message, sizeof(message)));
  EXPECT_EQ(message, -1) << "who was about to come does not take that for the end of rank 0";
  join(2);  // in vain
  ranks[1].reset();
  EXPECT_EQ(losses[0].wait_for(1), (std::vector{1}));
  ranks.clear();
  EXPECT_TRUE(losses[2].wait_for(0).empty());
}

TEST_F(Lifelines, AnAddressThatDoesNotAnswerIsFollowedByTheNext) {
  start(2);
  LifelineOffer other = offer;
  other.addresses = {"no address", "192.0.2.1", "127.0.0.1"};  // the second is nobody's (RFC 5737)
  other.host = "elsewhere";
  LifelineSpoke rank(1, "here", other, losses[1].hear());
  wait_until_door_is_closed();
  ranks[0].reset();
  EXPECT_EQ(losses[1].wait_for(1), (std::vector{0}));
}

TEST_F(Lifelines, EndsAtOnceWhileItIsStillConnecting) {
  tcp::acceptor silent(
      io, {boost::asio::ip::make_address("127.0.0.1"), 0});  // its kernel accepts; nobody answers
  LifelineOffer nobody{.host = "here",
                       .addresses = {"127.0.0.1", "127.0.0.1"},
                       .port = silent.local_endpoint().port(),
                       .token = std::string(32, 'x')};
  Losses none;
  for (const int milliseconds_in : {0, 1, 50, 2100}) {
    const LifelineSpoke rank(1, "here", nobody, none.hear());
    std::this_thread::sleep_for(milliseconds(milliseconds_in));
  }
  EXPECT_TRUE(none.wait_for(0).empty());
}

}  // namespace lifeline_test
}  // namespace sft::parallel
