import CryptoKit
import Foundation

/// A mistake of the user, in one sentence.
public struct Refused: LocalizedError {
    public let errorDescription: String?

    init(_ message: String) {
        errorDescription = message
    }
}

/// A file that maps a tile of `tile` x `tile` pixels to one that is `scale` times as large.
public struct Artifact {
    public let file: URL
    public let tile: Int
    public let scale: Int

    /// Opens an artifact of a bundle, after a check of every file.
    ///
    /// - Parameters:
    ///   - bundle: the directory that `srmill fetch` wrote.
    ///   - target: the artifact's name, such as `executorch_int8`.
    ///   - publicKey: the key that the bundle must be signed by (ed25519, PEM); nil to take any.
    /// - Throws: `Refused` where the bundle is damaged, or not signed by that key, or has no such
    ///   artifact.
    public init(bundle: URL, target: String, publicKey: String? = nil) throws {
        let damaged = Refused("bundle.json is missing or damaged: fetch the bundle again.")
        guard let text = try? Data(contentsOf: bundle.appending(path: "bundle.json")) else {
            throw damaged
        }
        if let publicKey {
            try checkSignature(text, in: bundle, by: publicKey)
        }
        guard let facts = try? JSONDecoder().decode(Facts.self, from: text) else { throw damaged }
        try checkFiles(facts.files, in: bundle)
        guard let found = facts.edge[target] else {
            let others = facts.edge.isEmpty ? "none" : facts.edge.keys.sorted().joined(separator: ", ")
            throw Refused("the bundle has no \(target); it has \(others).")
        }
        guard facts.files[found.file] != nil else {
            throw Refused("bundle.json does not list \(found.file): fetch the bundle again.")
        }
        file = bundle.appending(path: found.file)
        // An artifact for images of any size runs tiles too.
        tile = (found.input.shape.last ?? nil) ?? facts.tile
        scale = facts.scale
        guard (1...4096).contains(tile), (1...16).contains(scale) else { throw damaged }
    }
}

/// What an app needs of `bundle.json`.
private struct Facts: Decodable {
    struct Listed: Decodable {
        let sha256: String
    }

    struct Tensor: Decodable {
        let shape: [Int?]
    }

    struct Edge: Decodable {
        let file: String
        let input: Tensor
    }

    let files: [String: Listed]
    let edge: [String: Edge]
    let tile: Int
    let scale: Int
}

private func checkFiles(_ files: [String: Facts.Listed], in bundle: URL) throws {
    let root = bundle.resolvingSymlinksInPath().standardizedFileURL.pathComponents
    for (name, listed) in files {
        let file = bundle.appending(path: name).resolvingSymlinksInPath().standardizedFileURL
        guard file.pathComponents.starts(with: root) else {
            throw Refused("bundle.json names \(name), which lies outside the bundle.")
        }
        guard let content = try? Data(contentsOf: file, options: .mappedIfSafe),
            hex(SHA256.hash(data: content)) == listed.sha256
        else {
            throw Refused("\(name) is missing or damaged: fetch the bundle again.")
        }
    }
}

private func hex(_ digest: SHA256.Digest) -> String {
    digest.map { String(format: "%02x", $0) }.joined()
}

private func checkSignature(_ text: Data, in bundle: URL, by pem: String) throws {
    // RFC 8410: these twelve bytes stand before the 32 of any ed25519 key.
    let ed25519 = Data([0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00])
    let body = pem.split(whereSeparator: \.isNewline).filter { !$0.hasPrefix("-----") }.joined()
    guard let der = Data(base64Encoded: body, options: .ignoreUnknownCharacters),
        der.starts(with: ed25519),
        let key = try? Curve25519.Signing.PublicKey(rawRepresentation: der.dropFirst(ed25519.count))
    else {
        throw Refused("this is no public ed25519 key in PEM.")
    }
    guard let signature = try? Data(contentsOf: bundle.appending(path: "bundle.json.sig")) else {
        throw Refused("the bundle is not signed: sign it with srmill sign.")
    }
    guard key.isValidSignature(signature, for: text) else {
        throw Refused("the bundle's signature was not made by this key for this bundle.")
    }
}
