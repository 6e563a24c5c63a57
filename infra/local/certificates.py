"""Certificates by which the parts of one server know each other, and let nobody else in."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from infra.local.secrets import write_private

#: A part that has no valid certificate any more would not start, so they outlive the machine.
VALID = timedelta(days=3650)


def keep_certificates(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """Returns the files of an authority's certificate, of a certificate that it gave to this
    machine (127.0.0.1), and of that one's key; makes them if they are not there yet.

    The authority's own key is forgotten, so nobody can ever make a second certificate. Only this
    user can read the key.

    Args:
        folder: the folder of the files.
        name: what the files are named after.
    """
    authority, own, key = (folder / f"{name}-{part}.pem" for part in ("ca", "cert", "key"))
    if not key.exists():
        signer, private = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        write_private(authority, _certificate(f"{name} authority", signer, None, signer))
        write_private(own, _certificate(name, private, f"{name} authority", signer))
        plain = serialization.NoEncryption()
        form, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        write_private(
            key, private.private_bytes(form, kind, plain)
        )  # Last: what is there is complete.
    return authority, own, key


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str | None,
    signer: ec.EllipticCurvePrivateKey,
) -> bytes:
    """Returns a certificate of a key, as PEM; one of an authority if it has no issuer."""
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(_named(issuer or name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + VALID)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if issuer is not None:
        machine = x509.IPAddress(ip_address("127.0.0.1"))
        builder = builder.add_extension(x509.SubjectAlternativeName([machine]), critical=False)
    return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
