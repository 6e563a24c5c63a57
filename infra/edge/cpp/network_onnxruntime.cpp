// Runs an artifact by ONNX Runtime.

#include <onnxruntime_cxx_api.h>

#include <array>

#include "network.h"

namespace fs = std::filesystem;

const char RUNTIME[] = "ONNX Runtime";
const char DEFAULT_TARGET[] = "onnx_fp32";

namespace {

class OnnxNetwork : public Network {
public:
    explicit OnnxNetwork(const Artifact& given) : artifact(given) {
        Ort::SessionOptions options;
        // Threads that wait leave the processor to others.
        options.AddConfigEntry("session.intra_op.allow_spinning", "0");
        // Without this, a processor of x86 without VNNI cuts sums of int8 products off.
        options.AddConfigEntry("session.x64quantprecision", "1");
        try {
            session = Ort::Session(env, artifact.graph.c_str(), options);
        } catch (const Ort::Exception&) {
            throw Refused(artifact.graph.filename().string() +
                          " is no network that this ONNX Runtime can run.");
        }
    }

    bool run(std::vector<float>& x_l, std::vector<float>& x_h) override {
        const int64_t tile = artifact.tile, side = tile * artifact.scale;
        const std::array<int64_t, 4> from = {1, 3, tile, tile}, to = {1, 3, side, side};
        x_h.resize(3 * side * side);
        const Ort::Value input = tensor(x_l, from);
        Ort::Value output = tensor(x_h, to);
        const char *name = artifact.input.c_str(), *result = artifact.output.c_str();
        try {
            session.Run(Ort::RunOptions(), &name, &input, 1, &result, &output, 1);
        } catch (const Ort::Exception&) {  // other names, or another size
            return false;
        }
        return true;
    }

private:
    static Ort::Value tensor(std::vector<float>& values, const std::array<int64_t, 4>& shape) {
        static const Ort::MemoryInfo memory =
            Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
        return Ort::Value::CreateTensor<float>(memory, values.data(), values.size(), shape.data(),
                                               shape.size());
    }

    const Artifact artifact;
    Ort::Env env{ORT_LOGGING_LEVEL_FATAL};  // what fails throws, too
    Ort::Session session{nullptr};
};

}  // namespace

std::vector<fs::path> files_of(const fs::path& graph) { return {graph}; }

std::unique_ptr<Network> load_network(const Artifact& artifact) {
    return std::make_unique<OnnxNetwork>(artifact);
}
