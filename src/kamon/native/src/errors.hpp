// What a function of the C interface returns instead of a result. Functions that return a count
// return an Error as a negative number.
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

// What `call` returns: an Error. What it throws becomes one.
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

// What `call` returns: a count, or an Error as a negative number. What it throws becomes one.
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
