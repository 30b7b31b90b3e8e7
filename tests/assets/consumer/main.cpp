#include <edgekit.h>
#include <iostream>

int main() {
  ek_sampler *sampler = nullptr;
  ek_sampler_params params = EK_INIT(ek_sampler_params);
  params.top_k = 3;
  int32_t token = -1;
  const float logits[] = {1, 3, 2};
  if (ek_sampler_create(&params, 3, &sampler) != EK_OK ||
      ek_sampler_choose(sampler, logits, &token) != EK_OK) {
    std::cout << ek_last_error() << "\n";
    return 1;
  }
  ek_sampler_free(sampler);
  std::cout << ek_version() << " " << token << "\n";
}
