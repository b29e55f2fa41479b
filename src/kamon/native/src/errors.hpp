// The errors that functions of the C interface return. A function that returns a count returns an
// Error as a negative number.
#pragma once

#include <exception>

namespace {

// The Python side has the same numbers: see `check` in kamon/native/library.py.
enum Error {
  none = 0,
  memory = 1,
  token = 2,
  length = 3,
  index = 4,
  stopped = 5,
  offsets = 6,
  sizes = 7
};

// A document begins or ends outside the text or the tokens.
struct OutOfBounds : std::exception {};

// Returns the Error that `call` returns or throws.
template <class Call>
int error_of(const Call& call) {
  try {
    return call();
  } catch (const OutOfBounds&) {
    return Error::offsets;
  } catch (const std::exception&) {
    return Error::memory;
  }
}

// Returns the count that `call` returns, or an Error that it throws, as a negative number.
template <class Call>
int64_t count_or_error(const Call& call) {
  int64_t count = 0;
  const int error = error_of([&] {
    count = call();
    return Error::none;
  });
  return error ? -error : count;
}

}  // namespace
