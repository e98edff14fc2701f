#include "sft/base/activity.h"

#include <array>
#include <atomic>

namespace sft::activity {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

struct CollectiveRecord {
  std::atomic<const char*> name{""};
  std::atomic<int64_t> entered{0}, left{0};
};

std::atomic<const char*> phase{"start"};
std::atomic<int64_t> step{0}, micro_step{0}, block{0};
std::array<CollectiveRecord, 2> collectives;

CollectiveRecord& record_of(Plane plane) {
  return collectives[static_cast<std::size_t>(plane)];
}

CollectiveState state_of(Plane plane) {
  const CollectiveRecord& record = record_of(plane);
  const int64_t left = record.left.load();
  const int64_t entered = record.entered.load();
  return {record.name.load(), entered, entered > left};
}

}  // namespace

void set_phase(const char* name) {
  phase.store(name, kRelaxed);
}

void set_step(int64_t value) {
  step.store(value, kRelaxed);
  micro_step.store(0, kRelaxed);
  block.store(0, kRelaxed);
}

void set_micro_step(int64_t index) {
  micro_step.store(index, kRelaxed);
}

void set_block(int64_t index) {
  block.store(index, kRelaxed);
}

Collective::Collective(Plane plane, const char* name) : plane_(plane) {
  record_of(plane_).name.store(name, kRelaxed);
  record_of(plane_).entered.fetch_add(1);
}

Collective::~Collective() {
  record_of(plane_).left.fetch_add(1);
}

State now() {
  State state;
  state.phase = phase.load(kRelaxed);
  state.step = step.load(kRelaxed);
  state.micro_step = micro_step.load(kRelaxed);
  state.block = block.load(kRelaxed);
  state.control = state_of(Plane::kControl);
  state.data = state_of(Plane::kData);
  return state;
}

}  // namespace sft::activity
