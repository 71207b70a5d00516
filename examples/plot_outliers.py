"""
Which samples are outliers, and why?
====================================

``JKOFlowOutlierDetector`` has p-values that hold for new samples, and says which
features make a sample unusual.
"""

# SPDX-License-Identifier: BSD-3-Clause

# %%
# Benign tumours train the detector; it never sees a malignant one.
import matplotlib.pyplot as plt
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from skjko import JKOFlowOutlierDetector
from skjko.plots import CalibrationDisplay, ReasonsDisplay

X, y = load_breast_cancer(return_X_y=True, as_frame=True)
X = X[["mean radius", "mean texture", "mean smoothness", "mean symmetry"]]
X_train, benign = train_test_split(X[y == 1], test_size=0.5, random_state=0)
malignant = X[y == 0]
detector = JKOFlowOutlierDetector(calibration_fraction=0.4, random_state=0).fit(X_train)

# %%
# p-values of new benign samples are uniform within the band, as they should be.
CalibrationDisplay.from_estimator(detector, benign)

# %%
# Most malignant samples have a small one. With a bound of 10 % on the share of false
# alarms among the alarms:
flagged = detector.select(malignant, fdr=0.1)
print(f"{flagged.sum()} of {len(malignant)} malignant samples are flagged")

# %%
# A bar is what the sample would gain in score if the feature had its best value given
# the others.
worst = malignant.iloc[[detector.score_samples(malignant).argmin()]]
ReasonsDisplay.from_estimator(detector, worst)
plt.show()

# %%
# These values would be expected, given the other features of the sample:
print(worst.round(2).to_string())
print(detector.most_likely_values(worst).round(2).to_string())
