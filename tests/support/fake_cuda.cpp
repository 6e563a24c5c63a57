// Without a device guard for CUDA, a PyTorch without CUDA refuses even tensors that have no values.
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {
struct FakeGuard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::Device getDevice() const override { return {c10::DeviceType::CUDA, 0}; }
};
}  // namespace

namespace c10::impl {
C10_REGISTER_GUARD_IMPL(CUDA, FakeGuard)
}
