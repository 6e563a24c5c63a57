package srmill.kit

import java.io.File
import java.io.IOException
import java.security.DigestInputStream
import java.security.GeneralSecurityException
import java.security.KeyFactory
import java.security.MessageDigest
import java.security.PublicKey
import java.security.Signature
import java.security.SignatureException
import java.security.spec.InvalidKeySpecException
import java.security.spec.X509EncodedKeySpec
import java.util.Base64
import org.json.JSONException
import org.json.JSONObject

private const val DAMAGED = "bundle.json is missing or damaged: fetch the bundle again."

/** A mistake of the user, in one sentence. */
class Refused(message: String) : Exception(message)

/** A file that maps a tile of `tile` x `tile` pixels to one that is `scale` times as large. */
class Artifact(val file: File, val tile: Int, val scale: Int)

/**
 * Returns an artifact of a bundle, after a check of every file.
 *
 * @param bundle the directory that `srmill fetch` wrote.
 * @param target the artifact's name, such as `executorch_int8`.
 * @param publicKey the key that the bundle must be signed by (ed25519, PEM); null to take any.
 * @throws Refused the bundle is damaged, or not signed by that key, or has no such artifact.
 */
fun openArtifact(bundle: File, target: String, publicKey: String? = null): Artifact {
    val file = File(bundle, "bundle.json")
    if (!file.isFile) {
        throw Refused(DAMAGED)
    }
    try {
        val text = file.readBytes()
        if (publicKey != null) {
            checkSignature(text, File(bundle, "bundle.json.sig"), publicKey)
        }
        val facts = JSONObject(String(text))
        checkFiles(bundle.canonicalFile, facts.getJSONObject("files"))
        return artifact(bundle, target, facts)
    } catch (error: JSONException) {
        throw Refused(DAMAGED)
    } catch (error: IOException) {
        throw Refused("the bundle cannot be read (${error.message}).")
    } catch (error: GeneralSecurityException) {
        // As where an old Android knows no ed25519.
        throw Refused("the bundle's signature cannot be checked here (${error.message}).")
    }
}

private fun checkFiles(bundle: File, files: JSONObject) {
    for (name in files.keys()) {
        val file = File(bundle, name).canonicalFile
        if (!file.startsWith(bundle)) {
            throw Refused("bundle.json names $name, which lies outside the bundle.")
        }
        if (!file.isFile || sha256(file) != files.getJSONObject(name).getString("sha256")) {
            throw Refused("$name is missing or damaged: fetch the bundle again.")
        }
    }
}

private fun artifact(bundle: File, target: String, facts: JSONObject): Artifact {
    val edge = facts.getJSONObject("edge")
    if (!edge.has(target)) {
        val others = edge.keys().asSequence().joinToString().ifEmpty { "none" }
        throw Refused("the bundle has no $target; it has $others.")
    }
    val found = edge.getJSONObject(target)
    val name = found.getString("file")
    if (!facts.getJSONObject("files").has(name)) {
        throw Refused("bundle.json does not list $name: fetch the bundle again.")
    }
    val shape = found.getJSONObject("input").getJSONArray("shape")
    val last = shape.length() - 1
    // An artifact for images of any size runs tiles too.
    val tile = if (shape.isNull(last)) facts.getInt("tile") else shape.getInt(last)
    val scale = facts.getInt("scale")
    if (tile !in 1..4096 || scale !in 1..16) {
        throw Refused(DAMAGED)
    }
    return Artifact(File(bundle, name), tile, scale)
}

private fun sha256(file: File): String {
    val digest = MessageDigest.getInstance("SHA-256")
    DigestInputStream(file.inputStream(), digest).use { input ->
        val buffer = ByteArray(1 shl 16)
        while (input.read(buffer) >= 0) {
            // Reading is what updates the digest.
        }
    }
    return digest.digest().joinToString("") { "%02x".format(it) }
}

private fun checkSignature(text: ByteArray, signature: File, publicKey: String) {
    if (!signature.isFile) {
        throw Refused("the bundle is not signed: sign it with srmill sign.")
    }
    val key = readKey(publicKey)
    val isValid =
        try {
            Signature.getInstance("Ed25519").run {
                initVerify(key)
                update(text)
                verify(signature.readBytes())
            }
        } catch (error: SignatureException) {
            false // it is no signature at all
        }
    if (!isValid) {
        throw Refused("the bundle's signature was not made by this key for this bundle.")
    }
}

private fun readKey(pem: String): PublicKey {
    val body = pem.substringAfter("-----BEGIN PUBLIC KEY-----", "").substringBefore("-----END")
    try {
        val der = Base64.getMimeDecoder().decode(body)
        return KeyFactory.getInstance("Ed25519").generatePublic(X509EncodedKeySpec(der))
    } catch (error: InvalidKeySpecException) {
        throw Refused("this is no public ed25519 key in PEM.")
    } catch (error: IllegalArgumentException) {
        throw Refused("this is no public ed25519 key in PEM.")
    }
}
