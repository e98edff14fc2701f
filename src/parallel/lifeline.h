// Tells the ranks of a run when the process of one of them has ended.
//
// Launchers end a job that has lost a rank, but not at once: srun asks the others to leave by the signal that
// also announces a preemption, and kills them after its KillWait. So every rank keeps an idle TCP connection
// to rank 0, which its kernel closes when the process ends, however it ends, and rank 0 tells the others.
// Only the end of a process counts: a network that is cut leaves the connection as it is, one that breaks it
// is no reason to stop.
#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "parallel/control_plane.h"

namespace sft::parallel {

// Where rank 0 listens until all have come.
struct LifelineOffer {
  std::string host;                    // its name
  std::vector<std::string> addresses;  // of its interfaces, numeric
  uint16_t port = 0;                   // 0: it cannot listen
  std::string token;                   // of this run: who does not show it is turned away

  std::string to_text() const;
  static LifelineOffer from_text(const std::string& text);
};

class Lifeline {
 public:
  // Called with each rank that has ended without farewell(), once, on the lifeline's thread.
  using Lost = std::function<void(int rank)>;

  Lifeline(const Lifeline&) = delete;
  Lifeline& operator=(const Lifeline&) = delete;
  virtual ~Lifeline() = default;  // the others take this rank for lost unless farewell() came before
  void farewell() { leaves_ = true; }

 protected:
  explicit Lifeline(Lost lost) : lost_(std::move(lost)) {}
  void start(std::function<void()> work);  // on the thread
  // On the thread: what has been asked of io_, until all of it is done, the time is over, or stop().
  void run(std::chrono::milliseconds at_most = std::chrono::hours(24 * 365));
  void stop();  // afterwards no thread uses what the heirs own

  Lost lost_;
  boost::asio::io_context io_;
  std::atomic<bool> leaves_ = false, stopping_ = false;

 private:
  std::thread thread_;
};

// Rank 0's half.
class LifelineHub final : public Lifeline {
 public:
  // Listens for ranks 1 .. world_size - 1 for as long as `patience`, then says in the log who has not come:
  // for those, all is as without.
  LifelineHub(int world_size, std::string host, Lost lost, std::chrono::milliseconds patience);
  ~LifelineHub() override;
  const LifelineOffer& offer() const { return offer_; }

 private:
  struct Guest;
  void listen();
  void accept();
  void read_hello(const std::shared_ptr<Guest>& guest);
  void welcome(const std::shared_ptr<Guest>& guest);
  void watch(const std::shared_ptr<Guest>& guest);
  void close_door();

  const int world_size_;
  LifelineOffer offer_;
  boost::asio::ip::tcp::acceptor door_{io_};
  boost::asio::steady_timer patience_{io_};
  std::vector<std::shared_ptr<Guest>> coming_, ranks_;  // ranks_[rank], null: not (or no longer) there
  std::vector<int> missing_;                            // ranks that have never come
  std::vector<int> gone_;                               // lost ones, for those who come later
};

// The other ranks' half.
class LifelineSpoke final : public Lifeline {
 public:
  LifelineSpoke(int rank, const std::string& host, LifelineOffer offer, Lost lost);
  ~LifelineSpoke() override;

 private:
  bool connect(const std::string& address);
  void watch();

  const int rank_;
  LifelineOffer offer_;
  boost::asio::ip::tcp::socket socket_{io_};
  bool connected_ = false;
  int32_t heard_ = 0;
};

// Collective, of two ranks or more. Returns at once: connections are made on a thread.
std::unique_ptr<Lifeline> make_lifeline(ControlPlane& world, const std::string& host, Lifeline::Lost lost);

}  // namespace sft::parallel
