// Runs an artifact by ncnn.

#include <net.h>

#include <algorithm>

#include "network.h"

namespace fs = std::filesystem;

const char RUNTIME[] = "ncnn";
const char DEFAULT_TARGET[] = "ncnn_fp16";

namespace {

class NcnnNetwork : public Network {
public:
    explicit NcnnNetwork(const Artifact& given) : artifact(given) {
        net.opt.openmp_blocktime = 0;  // threads that wait leave the processor to others
        const std::vector<fs::path> files = files_of(artifact.graph);
        if (net.load_param(files[0].c_str()) != 0 || net.load_model(files[1].c_str()) != 0) {
            throw Refused(artifact.graph.filename().string() +
                          " is no network that this ncnn can run.");
        }
    }

    bool run(std::vector<float>& x_l, std::vector<float>& x_h) override {
        const int tile = artifact.tile, side = tile * artifact.scale;
        ncnn::Mat input(tile, tile, 3), output;  // a plane of ncnn's may end in unused bytes
        for (int c = 0; c < 3; ++c) {
            const auto plane = x_l.begin() + static_cast<size_t>(c) * tile * tile;
            std::copy_n(plane, tile * tile, static_cast<float*>(input.channel(c)));
        }
        ncnn::Extractor extractor = net.create_extractor();
        if (extractor.input(artifact.input.c_str(), input) != 0 ||
            extractor.extract(artifact.output.c_str(), output) != 0 || output.w != side ||
            output.h != side || output.c != 3) {
            return false;
        }
        x_h.clear();
        for (int c = 0; c < 3; ++c) {
            const float* plane = output.channel(c);
            x_h.insert(x_h.end(), plane, plane + static_cast<size_t>(side) * side);
        }
        return true;
    }

private:
    const Artifact artifact;
    ncnn::Net net;
};

}  // namespace

std::vector<fs::path> files_of(const fs::path& graph) {
    return {graph, fs::path(graph).replace_extension(".bin")};
}

std::unique_ptr<Network> load_network(const Artifact& artifact) {
    return std::make_unique<NcnnNetwork>(artifact);
}
