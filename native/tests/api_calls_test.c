/* Random sequences of public calls, see fuzz/api_fuzz.c: a case is about 200 bytes of them. */
#include "../fuzz/api_fuzz.c"

enum { MOST_BYTES = 400 };

int main(int argc, char **argv) {
  const int cases = check_start(argc, argv, 400).cases;
  for (int i = 0; i < cases; i++) {
    check_case("calls %d", i);
    check_rng rng = check_seed("calls", i);
    const size_t bytes = (size_t)check_below(&rng, MOST_BYTES);
    check_buffer buffer = check_buffer_new(bytes, 1, CHECK_END);
    check_bytes(&rng, buffer.data, bytes);
    for (size_t at = 0; i % 8 != 0 && at < 20 && at < bytes; at++) /* begin with a context and a sampler */
      buffer.data[at] = (uint8_t[]){0, 0, 55, 18, 18, 18, 18, 40, 16, 99, 99, 0, 3, 99, 15, 18, 18, 15, 15, 15}[at];
    LLVMFuzzerTestOneInput(buffer.data, bytes);
    check_buffer_free(&buffer);
  }
  check_tested((int)api_fuzz_calls, "public calls");
  return check_end();
}
