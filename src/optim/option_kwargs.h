// The values of lr_scheduler_kwargs and optim_args, and the complaint about what is in them.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace sft::optim {

// Whoever they are for asks for the names it knows, then calls check_nothing_left. Error(kConfig) throughout.
class OptionKwargs {
 public:
  // text: a JSON object, or name=value,name=value; null or None means unset.
  // option and owner are for messages: "lr_scheduler_kwargs", "linear".
  OptionKwargs(const std::string& option, const std::string& owner, const std::string& text);

  std::optional<double> number(const std::string& name);
  double number(const std::string& name, double otherwise) { return number(name).value_or(otherwise); }
  bool boolean(const std::string& name, bool otherwise);
  double non_negative(const std::string& name, double otherwise);
  std::string one_of(const std::string& name, const std::string& otherwise,
                     const std::vector<std::string>& allowed);
  void check_nothing_left() const;

  // Fails with "<option> of <owner>: <problem>".
  [[noreturn]] void complain(const std::string& problem) const;

 private:
  const nlohmann::json* find(const std::string& name);

  std::string option_, owner_;
  std::map<std::string, nlohmann::json> values_;
  std::vector<std::string> known_;
};

}  // namespace sft::optim
