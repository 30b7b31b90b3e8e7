#include <edgekit.h>
#include <stdio.h>

int main(int argc, char **argv) {
  ek_model *model = NULL;
  ek_model_info info = EK_INIT(ek_model_info);
  if (ek_model_open(argc > 1 ? argv[1] : "none.gguf", NULL, &model) != EK_OK) {
    puts(ek_last_error());
    return 1;
  }
  ek_model_describe(model, &info);
  printf("%s %u\n", info.architecture, (unsigned)info.vocab);
  ek_model_free(model);
  return 0;
}
