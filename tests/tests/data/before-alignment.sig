{
  "dsseEnvelope": {
    "payload": "eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjEiLCJwcmVkaWNhdGUiOnsiZmVkYmFzaW4iOnsia2luZCI6Imdsb2JhbCIsImxvZ19yZWNvcmQiOjE2LCJudW1fZXhhbXBsZXMiOjYsInBhcnRpY2lwYW50cyI6MiwicGFydGljaXBhbnRzX3RoYXRfd2VyZV9tb3ZlZCI6MSwicmVmZXJlbmNlIjpudWxsLCJyb3VuZCI6MSwicnVuIjoicGlsb3QiLCJzb2Z0d2FyZSI6ImZlZGJhc2luLXNlcnZlciAwLjEuMCIsInN0cmF0ZWd5IjoiYWxpZ25lZCJ9LCJyZXNvdXJjZXMiOlt7ImFsZ29yaXRobSI6InNoYTI1NiIsImRpZ2VzdCI6ImYwMmQ2ZDdhY2VjOGI1OWFjY2MzMzk4ZjRhNmVlMTQ4ZGQzZDVlYTM4NzkwOTY3MGViZWQzNDM4N2U3MDNmMmUiLCJuYW1lIjoiLiJ9XSwic2VyaWFsaXphdGlvbiI6eyJhbGxvd19zeW1saW5rcyI6ZmFsc2UsImhhc2hfdHlwZSI6InNoYTI1NiIsImlnbm9yZV9wYXRocyI6W10sIm1ldGhvZCI6ImZpbGVzIn19LCJwcmVkaWNhdGVUeXBlIjoiaHR0cHM6Ly9tb2RlbF9zaWduaW5nL3NpZ25hdHVyZS92MS4wIiwic3ViamVjdCI6W3siZGlnZXN0Ijp7InNoYTI1NiI6IjZkNWJmMzUzOGIyNGYwMjUyYTZlNDYwZGFjYjMzNTAwNzY2ZWU2MWMwNGRiNGZjNjVlYjNkN2U2Mzk4MDBmNjUifSwibmFtZSI6InBpbG90LXJvdW5kLTEifV19",
    "payloadType": "application/vnd.in-toto+json",
    "signatures": [
      {
        "keyid": "",
        "sig": "MEUCIF8+uEEiZiXInAiMnZli0ILOsn3V3yBKDkz/99D1L8qwAiEAsCub9CoImF3gxGISw81nYE8Tv3OiYCcsKDU3YQCa77E="
      }
    ]
  },
  "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
  "verificationMaterial": {
    "publicKey": {
      "hint": "de40d004adfbc1fa05c57893d265c90efc9317b98ec12ff7c51a9738b281d2b3"
    },
    "tlogEntries": []
  }
}