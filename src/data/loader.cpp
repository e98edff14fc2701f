#include "sft/data/loader.h"

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "data/window_reader.h"
#include "sft/base/checked.h"
#include "sft/base/error.h"

namespace sft::data {
namespace {

using base::ExitCode;
using base::fail;

void check(const TokenDataset& dataset, const LoaderOptions& options) {
  const BatchLayout& layout = options.layout;
  const auto global = base::checked_mul(layout.micro_batch_size, layout.world_size);
  if (layout.micro_batch_size < 1 || layout.world_size < 1 || layout.gradient_accumulation_steps < 1 ||
      !global || !base::checked_mul(*global, layout.gradient_accumulation_steps)) {
    fail(ExitCode::kConfig, "a global batch of {} rows x {} ranks x {} accumulation steps is not possible",
         layout.micro_batch_size, layout.world_size, layout.gradient_accumulation_steps);
  }
  if (options.rank < 0 || options.rank >= layout.world_size || options.prefetch_windows < 0 ||
      options.micro_batch_tokens < 0 || layout.num_rows != dataset.size()) {
    fail(ExitCode::kInternal, "loader of rank {} of {}, {} windows ahead, {} of {} rows", options.rank,
         layout.world_size, options.prefetch_windows, layout.num_rows, dataset.size());
  }
  if (layout.micro_steps_per_epoch() == 0) {
    fail(ExitCode::kConfig,
         "{} rows do not fill one micro-step of {} rows x {} ranks, and dataloader_drop_last = true drops "
         "it: turn that off or "
         "lower per_device_train_batch_size",
         layout.num_rows, layout.micro_batch_size, layout.world_size);
  }
}

class DirectLoader final : public DataLoader {
 public:
  DirectLoader(const TokenDataset& dataset, const LoaderOptions& options) : reader_(dataset, options) {}
  Window next(const Cursor& cursor) override { return reader_.read(cursor); }
  Cursor after(const Cursor& cursor) const override { return reader_.cut().end(reader_.cut().begin(cursor)); }

 private:
  WindowReader reader_;
};

class PrefetchingLoader final : public DataLoader {
 public:
  PrefetchingLoader(const TokenDataset& dataset, const LoaderOptions& options)
      : reader_(dataset, options),
        capacity_(static_cast<std::size_t>(options.prefetch_windows)),
        thread_([this] { read_ahead(); }) {}

  ~PrefetchingLoader() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  Window next(const Cursor& cursor) override {
    const Cursor begin = reader_.cut().begin(cursor);
    std::unique_lock lock(mutex_);
    if (expected_ != begin) restart(begin);
    changed_.wait(lock, [this] { return !ready_.empty(); });
    Item item = std::move(ready_.front());
    ready_.pop_front();
    expected_ = item.error ? std::nullopt : std::optional(reader_.cut().begin(item.window.end));
    lock.unlock();
    changed_.notify_all();
    if (item.error) std::rethrow_exception(item.error);
    return std::move(item.window);
  }

  Cursor after(const Cursor& cursor) const override { return reader_.cut().end(reader_.cut().begin(cursor)); }

 private:
  struct Item {
    Window window;
    std::exception_ptr error;
  };

  void restart(const Cursor& begin) {
    ready_.clear();
    to_read_ = begin;
    ++jumps_;
    changed_.notify_all();
  }

  bool may_read() const { return to_read_.has_value() && ready_.size() < capacity_; }

  void read_ahead() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return stopping_ || may_read(); });
      if (stopping_) return;
      const Cursor cursor = *to_read_;
      const int64_t jumps = jumps_;
      lock.unlock();
      Item item = read(cursor);
      lock.lock();
      if (jumps != jumps_) continue;  // nobody waits for this window any more
      to_read_ = item.error ? std::nullopt : std::optional(item.window.end);
      ready_.push_back(std::move(item));
      changed_.notify_all();
    }
  }

  Item read(const Cursor& cursor) noexcept {
    Item item;
    try {
      item.window = reader_.read(cursor);
    } catch (...) {
      item.error = std::current_exception();
    }
    return item;
  }

  WindowReader reader_;  // read() by the thread only; its cut by anyone
  const std::size_t capacity_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<Item> ready_;          // in order, the first begins at expected_
  std::optional<Cursor> expected_;  // what a sequential next() asks for
  std::optional<Cursor> to_read_;   // nothing: stopped after an error, or not yet started
  int64_t jumps_ = 0;
  bool stopping_ = false;

  std::thread thread_;  // last: starts when all else is there
};

}  // namespace

std::vector<Slot> window_slots(const TokenDataset& dataset, const LoaderOptions& options,
                               const Cursor& cursor) {
  check(dataset, options);
  return WindowReader(dataset, options).slots(cursor);
}

std::unique_ptr<DataLoader> DataLoader::create(const TokenDataset& dataset, const LoaderOptions& options) {
  check(dataset, options);
  if (options.prefetch_windows == 0) return std::make_unique<DirectLoader>(dataset, options);
  return std::make_unique<PrefetchingLoader>(dataset, options);
}

}  // namespace sft::data
