// lr_scheduler_kwargs, and the complaint about what is in it.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace sft::optim {

// Each schedule asks for the names it knows, then calls check_nothing_left. Error(kConfig) throughout.
class ScheduleKwargs {
 public:
  // text: a JSON object, or name=value,name=value; null or None means unset.
  ScheduleKwargs(const std::string& schedule, const std::string& text);

  std::optional<double> number(const std::string& name);
  double number(const std::string& name, double otherwise) { return number(name).value_or(otherwise); }
  double non_negative(const std::string& name, double otherwise);
  std::string one_of(const std::string& name, const std::string& otherwise,
                     const std::vector<std::string>& allowed);
  void check_nothing_left() const;

  // Fails with "lr_scheduler_kwargs of <schedule>: <problem>".
  [[noreturn]] void complain(const std::string& problem) const;

 private:
  const nlohmann::json* find(const std::string& name);

  std::string schedule_;
  std::map<std::string, nlohmann::json> values_;
  std::vector<std::string> known_;
};

}  // namespace sft::optim
