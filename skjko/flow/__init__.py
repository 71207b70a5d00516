"""The engine: JKO-iFlow in torch. It knows nothing of scikit-learn."""
