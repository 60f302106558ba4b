"""What a client asks for: checked, limited, and made into a submit for the engine."""
