// The families there are. A new one is a file of its own, a declaration and a row here.
#include "model/families/family.h"

namespace sft::model {

const Family& bloom_family();
const Family& falcon_family();
const Family& gemma_family();
const Family& gemma2_family();
const Family& gemma3_text_family();
const Family& gpt2_family();
const Family& gpt_neox_family();
const Family& gptj_family();
const Family& granite_family();
const Family& granitemoe_family();
const Family& llama_family();
const Family& mistral_family();
const Family& mixtral_family();
const Family& olmo_family();
const Family& olmo2_family();
const Family& olmoe_family();
const Family& opt_family();
const Family& phi_family();
const Family& phi3_family();
const Family& qwen2_family();
const Family& qwen2_moe_family();
const Family& qwen3_family();
const Family& qwen3_moe_family();
const Family& smollm3_family();
const Family& stablelm_family();
const Family& starcoder2_family();

std::span<const Family* const> all_families() {
  static const std::array kFamilies = {
      &bloom_family(),      &falcon_family(),   &gemma_family(),     &gemma2_family(),  &gemma3_text_family(),
      &gpt2_family(),       &gpt_neox_family(), &gptj_family(),      &granite_family(), &granitemoe_family(),
      &llama_family(),      &mistral_family(),  &mixtral_family(),   &olmo_family(),    &olmo2_family(),
      &olmoe_family(),      &opt_family(),      &phi_family(),       &phi3_family(),    &qwen2_family(),
      &qwen2_moe_family(),  &qwen3_family(),    &qwen3_moe_family(), &smollm3_family(), &stablelm_family(),
      &starcoder2_family(),
  };
  return kFamilies;
}

}  // namespace sft::model
