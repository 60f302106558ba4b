# A formula for Homebrew, for a tap. There is no public repository yet: put its address into
# `homepage` and `head`. It was never run on a Mac.
class Spindll < Formula
  desc "Self-hosted LLM appliance: an OpenAI-compatible API for models on this computer"
  homepage "https://example.org/spindll"
  head "https://example.org/spindll.git", branch: "main"
  license "Apache-2.0"

  depends_on arch: :arm64
  depends_on macos: :sonoma
  depends_on "python@3.13"
  depends_on "redis"

  # The set-up makes .venv beside the code, which Homebrew's folder does not allow: so the launcher
  # copies the code to the user's own folder first.
  def install
    libexec.install Dir["*"]
    (bin/"spindll-mac").write <<~SH
      #!/bin/sh
      set -eu
      code="$HOME/Library/Application Support/spindll-code"
      mkdir -p "$code"
      rsync -a --delete --exclude .venv --exclude build --exclude wheels "#{opt_libexec}/" "$code/"
      exec sh "$code/macos/spindll" "$@"
    SH
  end

  def caveats
    <<~TEXT
      spindll-mac install    starts the services, now and at every login
      spindll-mac uninstall  before brew uninstall
    TEXT
  end

  test do
    assert_match "macos/spindll install", shell_output("#{bin}/spindll-mac help")
  end
end
